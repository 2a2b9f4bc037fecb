"""Check that a plugin behaves: what it registers is looked at, and each of its node types is run, in
processes of their own, while what it does beside computing its outputs is watched.

`check` is the whole: it starts `trial` twice, under different hash seeds, and compares. A trial
imports the plugin, makes arguments for each node type (`arguments`), runs it through the engine
with its function replaced by one that watches the call (`watching`), and gives its findings
(`findings`). `begin` writes a new plugin of the files in ``template``.
"""

from .beginning import begin
from .check import Report, check, plugins_named
from .findings import RULES, Finding

__all__ = ["RULES", "Finding", "Report", "begin", "check", "plugins_named"]
