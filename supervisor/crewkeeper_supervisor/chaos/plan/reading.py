"""The walk over a scenario's nodes: what the walk over crew files does, and nested steps and free values."""

from typing import Any

from crewkeeper_supervisor.chaos.plan.steps import FORMS, Form
from crewkeeper_supervisor.shell.crew_kinds import Ref, Section
from crewkeeper_supervisor.shell.crew_problems import Path, shown
from crewkeeper_supervisor.shell.crew_reading import INVALID, Reading
from crewkeeper_supervisor.shell.yaml_nodes import Mapping, Node, Scalar, Sequence

STEPS_MAX = 2000
"""Most steps of one scenario."""


class ScenarioReading(Reading):
    """One walk; see `Reading`."""

    steps_seen = 0

    def read_ref(self, node: Node, kind: Ref, path: Path) -> Any:
        """Steps, or a free value."""
        return self._steps(node, path) if kind.name == "steps" else self.free(node, path)

    def _steps(self, node: Node, path: Path) -> Any:
        if not isinstance(node, Sequence):
            self.add("CREW-112", path, "is not a list of steps", "put '- ' before each step")
            return INVALID
        return [self._step(item, (*path, index)) for index, item in enumerate(node.items)]

    def _step(self, node: Node, path: Path) -> Any:
        self.places[path] = (node.line, node.column)
        self.steps_seen += 1
        if self.steps_seen == STEPS_MAX + 1:
            self.add("CREW-115", path, f"is step {STEPS_MAX + 1}; the limit is {STEPS_MAX}", "use `repeat`")
        if not isinstance(node, Mapping) or len(node.entries) != 1:
            self.add("CREW-112", path, "is not a step", "write one key, its kind, such as {work: 1s}")
            return INVALID
        name, value = node.entries[0]
        at = (*path, name.value)
        self.keys[at] = (name.line, name.column)
        form = FORMS.get(name.value)
        if form is None:
            hint = self.found.suggest(name.value, FORMS)
            self.add_at_key("CREW-110", at, f"unknown step {shown(name.value)}{hint}", f"use one of {', '.join(FORMS)}")
            return INVALID
        return {name.value: self._value(value, form, at)}

    def _value(self, node: Node, form: Form, path: Path) -> Any:
        if form.listed and isinstance(node, Sequence):
            assert isinstance(form.kind, Section)
            key = form.kind.find(form.listed)
            assert key is not None
            return self.read(node, key.kind, path)
        return self.read(node, form.kind, path)


def plain(node: Node) -> Any:
    """A tree that was read without problems, as JSON would hold it: what looks like a number is one."""
    match node:
        case Mapping():
            return {key.value: plain(child) for key, child in node.entries}
        case Sequence():
            return [plain(item) for item in node.items]
        case Scalar():
            from crewkeeper_supervisor.shell.crew_values import Unfit, parse_free

            try:
                return parse_free(node)
            except Unfit:
                return node.value
    raise AssertionError("a tree with problems was not refused")
