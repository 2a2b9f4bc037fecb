"""The models that the graphs of a plan name: resolved once, checked against what leases them, and
what each step leases of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .. import _models as models
from .._graph import Node
from .._plugins.registry import Registry
from .._settings.devices import Policy
from .._store.file_digests import FileDigests
from .._types import loader_answers as answers
from .._types.models import Loader, Model, name_of
from ..errors import Mark, ModelError, Problem

__all__ = ["NamedModels"]


class NamedModels:
    """Resolves the models that are named and says which of them cannot be used."""

    def __init__(
        self,
        registry: Registry,
        files: FileDigests,
        model_policy: models.ModelPolicy,
        problems: list[Problem],
    ) -> None:
        self.registry = registry
        self.files = files
        self.model_policy = model_policy
        #: What is wrong with models that are named; shared with the rest of the plan.
        self.problems = problems
        #: Each reference as resolved from a folder, or why it cannot be.
        self.resolved: dict[tuple[str, Path], Model | Problem] = {}
        #: What of a model its steps lease, and the loader of each, by the model's fingerprint.
        self.leased: dict[str, dict[models.Identity, tuple[Any, Model]]] = {}
        self._checked: dict[tuple[Any, ...], str] = {}

    def copy(self, problems: list[Problem]) -> NamedModels:
        """Copy them for a run, which learns more."""
        made = NamedModels(self.registry, self.files, self.model_policy, problems)
        made.resolved, made._checked = dict(self.resolved), dict(self._checked)
        made.leased = {digest: dict(leased) for digest, leased in self.leased.items()}
        return made

    def forget_changed(self) -> None:
        """Forget the models whose files have changed, so that they are resolved again."""
        for named, model in list(self.resolved.items()):
            if isinstance(model, Model) and not models.is_unchanged(model):
                del self.resolved[named]

    def resolve(self, reference: str, folder: Path, mark: Mark | None) -> Model:
        """Resolve a model reference; one that is not on this machine gets an empty digest and is a
        problem of the plan.
        """
        found = self.resolved.get((reference, folder))
        if found is None:
            embedded = self.registry.models if reference.startswith("embedded/") else {}
            try:
                found = models.resolve(
                    reference,
                    folder=folder,
                    embedded=embedded,
                    digest=self.files.digest_file,
                    policy=self.model_policy,
                    base_of=self.registry.base_of,
                )
            except (models.BadReference, models.UnresolvedModel, models.UnusableModel) as missing:
                found = missing.problem(mark)
                self.problems.append(found)
            self.resolved[reference, folder] = found
        return (
            found if isinstance(found, Model) else Model(Path(reference), "unresolved", reference)
        )

    def unusable(
        self,
        model: Model,
        digest: str,
        loader: Loader[Any],
        port: str,
        given: Mapping[str, Model],
        node: Node,
        policy: Callable[[Node], Policy],
    ) -> str:
        """Say why a step cannot run with a model at a port, given those at its other ports: it is
        not here, it is of a kind that the step's loader refuses, or it cannot be loaded as the
        step's policy says; the last two are problems of the plan. Nothing if it can.

        Params:
            digest: of the model as a value.
        """
        if model.digest == "unresolved":
            return "its model is not on this machine"
        at = (digest, loader, id(node), *(one.digest for one in given.values()))
        if at not in self._checked:
            here = {name: one for name, one in given.items() if one.digest != "unresolved"}
            self._checked[at] = self._of_another_kind(model, loader, node) or self._unfit(
                loader, port, {**here, port: model}, node, policy(node)
            )
        return self._checked[at]

    def _unfit(
        self, loader: Loader[Any], port: str, given: Mapping[str, Model], node: Node, policy: Policy
    ) -> str:
        """Ask a loader whether it can load a model under a policy, and note what it would lease."""
        computing: dict[str, Any] = {
            "device": policy.device,
            "dtype": policy.dtype,
            "settings": policy.settings,
        }
        try:
            fitted = models.with_replaced_parts(loader, port, given)
            models.check_support(loader, fitted, **computing)
            leased = [
                (models.identity_of(leaf, fitted, **computing), leaf, self._read_of(leaf, fitted))
                for leaf in models.leaves(loader, fitted)
            ]
        except ModelError as refused:
            self.problems.append(_problem(refused, node))
            return "its model cannot be loaded with these settings"
        for identity, leaf, of in leased:
            digest = (of or given[port]).digest
            self.leased.setdefault(digest, {})[identity] = leaf, fitted
        return ""

    def _read_of(self, leaf: Loader[Any], model: Model) -> Model | None:
        """Give the model that a loader reads instead of `model`, if its part was replaced."""
        if not model.replaced_parts:
            return None
        read = answers.folders_of(leaf, model) or ()
        return next((other for name, other in model.replaced_parts if name in read), None)

    def _of_another_kind(self, model: Model, loader: Loader[Any], node: Node) -> str:
        at = (name_of(loader), model.digest)
        if at not in self._checked:
            self._checked[at] = ""
            try:
                answers.check(loader, model)
            except models.UnresolvedModel as missing:
                self._checked[at] = "its model is not on this machine"
                if all(problem.message != str(missing) for problem in self.problems):
                    self.problems.append(missing.problem(node.mark))
            except ModelError as refused:
                self._checked[at] = "its model is of another kind"
                self.problems.append(_problem(refused, node))
        return self._checked[at]


def _problem(refused: ModelError, node: Node) -> Problem:
    return Problem(
        "bad-model",
        str(refused),
        node.mark,
        why=getattr(refused, "why", ""),
        fix=getattr(refused, "fix", ""),
    )
