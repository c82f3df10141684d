"""What `search`, `report` and the lists print on stdout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table

from autopeft.records import train_command
from autopeft.report import did_it_help, edge_sentence, forgetting_line, rate_words

if TYPE_CHECKING:
    from autopeft.pipeline import Preview
    from autopeft.records import Confirmation, Cost, Decision, Plan, SearchResult


def console() -> Console:
    """Standard output, without colours where it is no terminal."""
    return Console(highlight=False, soft_wrap=True)


def print_result(result: SearchResult, path: Path) -> None:
    """Print the verdict, the confirmed plans, and where the files are."""
    out = console()
    setting, cost = result.setting, result.cost
    out.print(f"\n[bold]{result.verdict.sentence}[/bold]\n")
    if result.confirmations:
        out.print(_confirmed_table(result))
    budget = setting.budget
    share = 100 * result.best.trainable_params / budget.base_params
    out.print(
        f"budget {budget.requested} = {budget.max_trainable_params:,}; the best plan trains "
        f"{result.best.trainable_params:,} ({share:.3f} %), the head {setting.head_params:,} beside it"
    )
    out.print(f"its learning rate is {rate_words(result.best, result)}")
    for sentence in filter(None, (*result.sentences, edge_sentence(result))):
        out.print(sentence)
    if result.spec.search.objective == "pareto":
        _print_front(result, out, path)
    rho = result.proxy.rank_correlation
    agreement = "not measured" if rho is None else f"{rho:.2f} over {result.proxy.n_plans} plans"
    total = "" if cost.total_full_runs is None else f", all together {cost.total_full_runs:.1f} R"
    out.print(
        f"search {_in_full_runs(cost)}, confirmation {cost.confirm_seconds:.0f} s{total}; "
        f"rank correlation between the rungs {agreement}"
    )
    if result.forgetting is not None:
        out.print(forgetting_line(result.forgetting))
    if result.score_pairs:
        out.print(did_it_help(result).sentence)
    out.print(f"\nreport  {path / 'report.html'}\nplan    {path / 'best' / 'plan.yaml'}")
    if (path / "best" / "weights").is_dir():
        out.print(f"weights {path / 'best' / 'weights'}")
    command = train_command(path / "best" / "plan.yaml", result.spec.model, result.spec.data)
    out.print(f"train it in full: {command}", markup=False)


def _in_full_runs(cost: Cost) -> str:
    """The cost of the search in seconds, and in full runs (R) where a plan was trained."""
    seconds = f"{cost.sensitivity_seconds + cost.search_seconds:.0f} s"
    if cost.full_runs is None or cost.full_run_seconds is None:
        return seconds
    return f"{cost.full_runs:.1f} R ({seconds}; R = {cost.full_run_seconds:.0f} s)"


def _print_front(result: SearchResult, out: Console, path: Path) -> None:
    """Print the Pareto front of loss and parameters, as the search measured it."""
    rows = []
    for measurement in result.front:
        metric = "–" if measurement.metric is None else f"{measurement.metric:.4f}"
        rows.append((*_size_and_rate(measurement.plan), f"{measurement.loss:.4f}", metric))
    headers = ("parameters", "learning rate", "loss (search)", f"{result.setting.metric} (search)")
    out.print(f"\nfront, by short runs and unconfirmed; plans in {path / 'front'}")
    out.print(_table(headers, rows))


def _confirmed_table(result: SearchResult) -> Table:
    """One row per confirmed plan, with the test split where it was read."""
    test = {record.name: _mean_and_error(record) for record in result.test}
    rows = [
        (record.name, *_size_and_rate(record.plan), _mean_and_error(record), test.get(record.name, ""))
        for record in result.confirmations
    ]
    return _table(("plan", "parameters", "learning rate", f"{result.setting.metric} (confirm)", "test"), rows)


def _size_and_rate(plan: Plan) -> tuple[str, str]:
    return f"{plan.trainable_params:,}", f"{plan.learning_rate:.1e}"


def _mean_and_error(record: Confirmation) -> str:
    return f"{record.metric_mean:.4f} ± {record.metric_std_error:.4f}"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table without lines: the names of plans to the left, numbers to the right."""
    columns = [Column(header, justify="left" if header == "plan" else "right") for header in headers]
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def print_preview(preview: Preview) -> None:
    """Print what a search would do."""
    first, *others = map(str, preview.rung_steps)
    above = f", the best go on to {' and '.join(others)}" if others else ""
    text = preview.forgetting
    general = (
        f"forgetting    {text.n_blocks} blocks of {text.block_tokens} tokens of {text.name}\n" if text else ""
    )
    console().print(
        f"budget        {preview.max_trainable_params:,} of {preview.base_params:,} parameters, "
        f"head {preview.head_params:,} beside it\n"
        f"sites         {preview.n_sites}\n"
        f"methods       {', '.join(preview.methods)}\n"
        f"search        {preview.trials} trials of {first} steps{above}; "
        f"at most {preview.search_cost:.1f} R\n"
        f"full run      {preview.full_run_steps} steps\n"
        f"confirmation  {preview.confirm_seeds} seeds of {preview.confirm_steps} steps per plan; "
        f"{preview.confirm_cost:.1f} R for two plans\n"
        f"{general}{_derived(preview.decisions)}"
        "Nothing was trained and nothing was written."
    )


def _derived(decisions: Sequence[Decision]) -> str:
    """One line per setting that was derived, with the flag that sets it."""
    return "".join(f"{'' if i else 'derived':<13} {decision}\n" for i, decision in enumerate(decisions))


def print_rows(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a plain table."""
    table = Table(*(Column(header, overflow="fold") for header in headers), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)
