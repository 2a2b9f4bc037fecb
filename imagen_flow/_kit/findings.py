"""What a check finds: which rule a node type breaks, how, and how to mend it."""

from __future__ import annotations

from .._system.dataclass import dataclass

__all__ = ["RULES", "Finding"]

#: The rules, and why each is one.
RULES: dict[str, str] = {
    "loads": "a plugin that cannot be imported offers nothing",
    "light": "planning imports every plugin that a graph uses, and must stay fast",
    "quiet": "standard output belongs to results; nodes speak by notes",
    "documented": "`imagen-flow nodes` and editors show the docstring",
    "example": "a node type that cannot be tried cannot be checked",
    "deterministic": "equal inputs must give equal outputs, or the store serves what nobody would get",
    "stable": "equal inputs must give equal outputs in every process",
    "stored": "a value must come back from the store as it was",
    "random": "the random state of the process belongs to others: use a generator of your own",
    "inputs": "inputs are shared with other nodes and must not be changed",
    "model": "a leased model is shared, and must be put back as it was",
    "settings": "settings of a library hold for the whole process",
    "progress": "progress never goes back, nor beyond its total",
    "cancel": "a node ends at its next yield when the run is cancelled",
    "files": "a node writes nothing: its outputs are values, checkpoints go to its Scratch folder",
    "network": "what a node sends is said before it runs: @node(…, calls=…)",
}


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A node type that breaks a rule. `node` is empty for what concerns the plugin."""

    node: str
    rule: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        about = f"{self.node}: " if self.node else ""
        mend = f"\n  = fix: {self.fix}" if self.fix else ""
        return f"{about}{self.rule}: {self.message}\n  = why: {RULES[self.rule]}{mend}"
