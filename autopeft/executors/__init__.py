"""Ways to run measurements, one file each.

Inside the folder each file imports only from those before it:
worker → process, ray, serial.
"""

from autopeft.executors.process import Process
from autopeft.executors.ray import Ray
from autopeft.executors.serial import Serial
from autopeft.executors.worker import Executor
from autopeft.plugins import Catalogue

_ALL: tuple[Executor, ...] = (Serial(), Process(), Ray())
EXECUTORS = Catalogue("executor", {executor.name: executor for executor in _ALL})
