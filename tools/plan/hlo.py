"""The text of a compiled program: what a step runs of it, how often, and where each instruction comes from."""

import re
from typing import NamedTuple


class Executed(NamedTuple):
    """An instruction outside of fusions: its line, and how many times a step runs it."""

    line: str
    times: float

    @property
    def opcode(self) -> str:
        found = re.search(r"[\]})] ([a-z][\w-]*)\(", self.line.split(" = ", 1)[-1])
        return found[1] if found else ""

    @property
    def scopes(self) -> list[str]:
        """The names under which JAX traced it, outermost first, the primitive last: `jvp(encoder)` is `encoder`.

        Those of jitted functions are left out.
        """
        found = re.search(r'op_name="([^"]*)"', self.line)
        return re.findall(r"(?<!jit\()\b[\w.~-]+(?=[)/]|$)", found[1]) if found else []


class Hlo:
    """A compiled program, from `as_text()` of it."""

    def __init__(self, text: str):
        self.computations, self._entry = _computations(text)
        self._sources = _sources(text)
        self._cycles = {}

    def executed(self):
        """All that a step runs (`Executed`). Of branches the dearest is taken."""
        yield from self._visit(self._entry, 1.0)

    def called(self, line: str) -> list[str]:
        """The lines of what an instruction that is no loop calls: a fusion, an asynchronous one."""
        return [x for n in re.findall(r"(?:calls|to_apply)=%?([\w.-]+)", line) for x in self.computations.get(n, ())]

    def source(self, line: str) -> str:
        """FILE:LINE of the Python code that an instruction stands for; "" where the text does not say it."""
        frame = re.search(r"stack_frame_id=(\d+)", line)
        if frame:
            return self._sources.get(frame[1], "")
        direct = re.search(r'source_file="([^"]*)" source_line=(\d+)', line)
        return f"{direct[1]}:{direct[2]}" if direct else ""

    def cycles(self, name: str) -> float:
        """What a computation takes, by the compiler's own estimate of its instructions (TPU)."""
        if name not in self._cycles:
            self._cycles[name] = 0.0  # nothing calls itself
            self._cycles[name] = sum(e.times * estimate(e.line) for e in self._visit(name, 1.0))
        return self._cycles[name]

    def _visit(self, name, times):
        for line in self.computations.get(name, ()):
            loop = re.search(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)", line)
            if loop:
                rounds = times * self._rounds(line, loop[1])
                yield from self._visit(loop[1], rounds)
                yield from self._visit(loop[2], rounds)
                continue
            if " conditional(" in line:
                listed = re.search(r"branch_computations=\{([^}]*)\}", line)
                listed = listed[1] if listed else " ".join(re.findall(r"(?:true|false)_computation=%?([\w.-]+)", line))
                dearest = lambda name: (self.cycles(name), len(self.computations.get(name, ())))
                yield from self._visit(max(re.findall(r"[\w.-]+", listed), key=dearest), times)
                continue
            if re.search(r" call\(", line):
                yield from self._visit(re.search(r"to_apply=%?([\w.-]+)", line)[1], times)
                continue
            yield Executed(line, times)

    def _rounds(self, line: str, condition: str) -> float:
        """Of a loop: what the text says, or a bound that it counts up to, or what the scope `rounds_N` around it says
        one may expect; 1 of any other."""
        told = re.search(r'known_trip_count[^}]*"n":"(\d+)"', line)
        if told:
            return int(told[1])
        text = "\n".join(x for y in self.computations.get(condition, ()) for x in (y, *self.called(y)))
        bounds = re.findall(r"[su]32\[\]\S* constant\((\d+)\)", text)
        if len(bounds) == 1 and "direction=LT" in text:
            return int(bounds[0])
        expected = re.search(r'op_name="[^"]*\brounds_(\d+)', line)
        return int(expected[1]) if expected else 1


def estimate(line: str) -> float:
    """The compiler's estimate of the cycles that a TPU takes for an instruction; 0 where it states none."""
    found = re.search(r'"estimated_cycles":"(\d+)"', line)
    return float(found[1]) if found else 0.0


def _computations(text: str):
    """{name: instruction lines} and the entry's name."""
    out, entry, name = {}, "", None
    for line in text.splitlines():
        start = re.match(r"(ENTRY )?%?([\w.-]+)(?: \(.*\) -> .*)? \{$", line)
        if start and not line.startswith(" "):
            name = start[2]
            out[name] = []
            entry = name if start[1] else entry
        elif line.startswith("}"):
            name = None
        elif name:
            out[name].append(line)
    return out, entry


def _sources(text: str) -> dict[str, str]:
    """{stack frame: FILE:LINE} from the tables before the first computation."""

    def table(title, entry):
        found = re.search(rf"^{title}\n((?:\d.*\n)*)", text, re.MULTILINE)
        return dict(re.findall(entry, found[1], re.MULTILINE)) if found else {}

    files = table("FileNames", r'^(\d+) "(.*)"')
    of_place = table("FileLocations", r"^(\d+) \{file_name_id=(\d+)")
    line_of_place = table("FileLocations", r"^(\d+) \{.*? line=(\d+)")
    frames = table("StackFrames", r"^(\d+) \{file_location_id=(\d+)")
    return {f: f"{files[of_place[p]]}:{line_of_place[p]}" for f, p in frames.items() if of_place.get(p) in files}
