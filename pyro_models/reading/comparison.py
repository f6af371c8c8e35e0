"""Two stories side by side: what differs between two models, or two versions of one, site by site."""

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from html import escape

from pyro_models.reading import graphs
from pyro_models.reading.printer import Story, process_lines


@dataclass(frozen=True)
class Difference:
    """What differs between two stories.

    Attributes:
        before, after: the stories.
    """

    before: Story
    after: Story

    def __str__(self) -> str:
        return self.text

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The lines of both stories, each with a sign: `-` where it is in the first alone, `+` in the second alone."""
        rows: list[tuple[str, str]] = []
        for title in dict.fromkeys((*self.before.programs, *self.after.programs)):
            old, new = (
                process_lines(title, story.programs[title]) if title in story.programs else []
                for story in (self.before, self.after)
            )
            rows += [*_matched(*(list(map(_unaligned, lines)) for lines in (old, new))), (" ", "")]
        for title in ("factorisation", "objective"):
            rows += [(" ", "")] * (title == "objective")
            rows += [(" ", title), *_matched(*(list(getattr(story, title)) for story in (self.before, self.after)))]
        return rows

    @property
    def text(self) -> str:
        """The lines with their signs; lines of neither sign are in both."""
        return "\n".join(f"{sign} {line}".rstrip() for sign, line in self.lines)

    @property
    def svg(self) -> str:
        """The graph of both models: green what the second adds, red what it lacks, orange what it changes."""
        return graphs.svg(graphs.compared(self.before.programs["story p"], self.after.programs["story p"]))

    @property
    def html(self) -> str:
        """A self-contained fragment of HTML: the graph, and the lines in the same colours."""
        colours = {"+": graphs.COLOURS["added"], "-": graphs.COLOURS["removed"], " ": "inherit"}
        lines = [f'<span style="color: {colours[sign]}">{sign} {escape(line)}</span>' for sign, line in self.lines]
        text = "\n".join(lines)
        return f'<div class="story">\n{self.svg}\n<pre>{text}</pre>\n</div>'

    def _repr_html_(self) -> str:
        return self.html


def _unaligned(line: str) -> str:
    """Take out the blanks before shapes, which stand in a column as wide as other lines are."""
    return re.sub(r"(?<=\S) +(?=\[[\d, ]*\] \[)", "  ", line)


def _matched(old: list[str], new: list[str]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for tag, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        rows += [("-" if tag != "equal" else " ", line) for line in old[a:b]]
        rows += [("+", line) for line in new[c:d] if tag != "equal"]
    return rows
