"""
Draws the sketches of docs/how_it_works.md into docs/pictures: SVG of its own colours for light and dark.

    python docs/draw_pictures.py
"""

from html import escape
from pathlib import Path


FOLDER = Path(__file__).with_name("pictures")
STYLE = """
svg { color-scheme: light dark; font-family: system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
.paper { fill: #faf9f6; } .card { fill: #ffffff; stroke: #d5dadf; stroke-width: 1.5; }
.ink { fill: #1f2d38; } .muted { fill: #5d6b76; } .line { stroke: #8896a1; stroke-width: 2.5; fill: none; }
.head { fill: #8896a1; } .summary { fill: #2b6cb0; } .document { fill: #d9711c; } .good { fill: #2f7d52; }
.tint { fill: #2b6cb0; opacity: 0.14; } .axis { stroke: #c9d0d6; stroke-width: 1.5; } .on { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
.paper { fill: #1d252d; } .card { fill: #27313b; stroke: #43505c; }
.ink { fill: #edf2f6; } .muted { fill: #a9b7c3; } .line { stroke: #8fa0ad; }
.head { fill: #8fa0ad; } .summary { fill: #6fb1ef; } .document { fill: #f2a45c; } .good { fill: #6fcf97; }
.tint { fill: #6fb1ef; opacity: 0.25; } .axis { stroke: #4a5763; } .on { fill: #14202a; }
}
"""
WIDTH = 640


def picture(height: int, title: str, *parts: str) -> str:
    """An SVG on paper of its own, so that it can be read on any page."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" font-size="19">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n"
        f'<rect class="paper" width="{WIDTH}" height="{height}" rx="18"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def text(x: float, y: float, words: str, kind: str = "ink", anchor: str = "start", **style) -> str:
    more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}"{more}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, kind: str = "card", rx: float = 12) -> str:
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="{rx}"/>'


def pill(x: float, y: float, width: float, words: str, kind: str) -> str:
    return box(x, y, width, 46, kind, 23) + text(x + width / 2, y + 30, words, "on", "middle", font_weight=600)


def arrow(path: str, x: float, y: float, turn: int = 0) -> str:
    """A line and its head, which points down and is turned by degrees."""
    head = f'<path class="head" d="M-9,-12 L9,-12 L0,3 Z" transform="translate({x},{y}) rotate({turn})"/>'
    return f'<path class="line" d="{path}"/>{head}'


def qagen() -> str:
    pairs = [
        ("Who has a chink in his armour?", "Joshua"),
        ("What does Joshua have in his armour?", "a chink"),
        ("Who says that Joshua has a chink?", "Lewis"),
    ]
    parts = [
        text(36, 44, "a summary", "muted", font_size=17),
        box(30, 56, 580, 58),
        text(320, 92, "Lewis says that Joshua has a chink in his armour.", anchor="middle", font_size=22),
        arrow("M320,114 V138", 320, 144),
        pill(235, 148, 170, "QAGen", "summary"),
        arrow("M320,194 V216", 320, 222),
        text(36, 226, "questions", "muted", font_size=17),
        text(604, 226, "answers", "muted", "end", font_size=17),
    ]
    for row, (question, answer) in enumerate(pairs):
        y = 238 + 62 * row
        parts += [box(30, y, 580, 52), box(478, y + 8, 120, 36, "tint", 18), text(48, y + 33, question)]
        parts.append(text(538, y + 33, answer, "summary", "middle", font_weight=600))
    return picture(440, "QAGen reads a summary and writes questions with their answers", *parts)


def quals() -> str:
    supported = ["Who", "says", "so", "?", "Lewis"], [0.8, 0.9, 0.7, 1, 0.95], [0.75, 0.85, 0.72, 1, 0.9]
    doubted = (
        ["Who", "has", "a", "chink", "?", "Joshua"],
        [0.8, 0.75, 0.9, 0.7, 1, 0.9],
        [0.75, 0.7, 0.9, 0.66, 1, 0.03],
    )
    parts = [
        box(36, 24, 18, 18, "summary", 4),
        text(62, 40, "p given the summary", font_size=18),
        box(300, 24, 18, 18, "document", 4),
        text(326, 40, "p given the document", font_size=18),
    ]
    for top, (tokens, given_summary, given_document), verdict, kind in (
        (60, supported, "supported", "good"),
        (222, doubted, "doubtful", "document"),
    ):
        parts += [box(30, top, 580, 150), text(42, top + 80, verdict, kind, font_weight=600, font_size=18)]
        base, step = top + 92, 76
        parts.append(f'<path class="axis" d="M150,{base} H594"/>')
        for number, token in enumerate(tokens):
            x, last = 184 + number * step, number == len(tokens) - 1
            for offset, share, color in ((-23, given_summary, "summary"), (1, given_document, "document")):
                height = 74 * share[number]
                parts.append(box(x + offset, base - height, 22, height, color, 3))
            parts.append(
                text(x, base + 26, token, "ink" if last else "muted", "middle", font_weight=600 if last else 400)
            )
            if last:
                parts.append(text(x, base + 46, "answer", "muted", "middle", font_size=14))
    return picture(
        392, "Two pairs, token by token: the answer Lewis is as probable given the document, Joshua is not", *parts
    )


def conseq() -> str:
    parts = [
        pill(225, 28, 190, "summarizer", "summary"),
        arrow("M415,51 H510 Q530,51 530,71 V104", 530, 112),
        box(440, 116, 180, 82),
        text(530, 150, "6 samples", anchor="middle", font_weight=600),
        text(530, 176, "of each document", "muted", "middle", font_size=17),
        arrow("M530,198 V302 Q530,322 510,322 H432", 424, 322, 90),
        box(215, 270, 206, 104),
        text(318, 308, "QUALS", "summary", "middle", font_weight=700, font_size=22),
        text(318, 334, "scores samples", "muted", "middle", font_size=17),
        text(318, 356, "and references", "muted", "middle", font_size=17),
        arrow("M215,322 H130 Q110,322 110,302 V290", 110, 284, 180),
        box(20, 198, 180, 82),
        text(110, 231, "S−  avoid", "document", "middle", font_weight=700),
        text(110, 258, "worst samples", "muted", "middle", font_size=17),
        box(20, 104, 180, 82),
        text(110, 137, "S+  imitate", "good", "middle", font_weight=700),
        text(110, 164, "best references", "muted", "middle", font_size=17),
        arrow("M110,104 V71 Q110,51 130,51 H212", 218, 51, -90),
        text(320, 150, "train", "muted", "middle", font_size=17),
        text(320, 176, "every epoch anew", "ink", "middle", font_weight=600),
    ]
    return picture(396, "Sample, score, choose what to imitate and what to avoid, train; every epoch anew", *parts)


PICTURES = {"qagen.svg": qagen, "quals.svg": quals, "conseq.svg": conseq}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")
