"""The table of budgets: rows, verdicts, Markdown."""

from dataclasses import dataclass


@dataclass
class Row:
    """One budget. `ratio` is measured by what the budget allows; up to 1 passes."""

    what: str
    budget: str
    measured: str
    ratio: str = ""
    kept: "bool | None" = None

    def verdict(self):
        return {True: "pass", False: "**MISSED**", None: ""}[self.kept]


def markdown(facts, rows, notes, tables, quick):
    lines = [
        f"Measured {facts['date']}: {facts['cpu']}, {facts['cores']} cores"
        f"{' of a virtual machine' if facts['virtual'] else ''}, {facts['memory_gib']} GiB, Linux {facts['kernel']}, "
        f"{facts['libc']}, CPython {facts['python']}; load average before: {facts['load_average_before']:.2f}."
    ]
    if facts["load_average_before"] > 0.5:
        lines.append("\n**Other programs were running: read the figures as noise around the ratios.**")
    if quick:
        lines.append("\n**A short run: too few rounds to quote.**")
    lines += ["", "| what | budget | measured | ratio | |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {r.what} | {r.budget} | {r.measured} | {r.ratio} | {r.verdict()} |" for r in rows]
    lines += ["", "Ratios are of this one run. Also measured, without a budget:", ""]
    lines += [f"- {note}" for note in notes]
    for table in tables:
        lines += ["", table]
    return "\n".join(lines) + "\n"
