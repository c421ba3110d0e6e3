"""What an icon's name says: its caption, and the concept that is left without matters of style."""

STYLES = frozenset([
    "a", "alt", "alternate", "b", "big", "bold", "broken", "circled", "color", "colored",
    "colors", "detailed", "duo", "duotone", "empty", "fill", "filled", "flat", "glyph", "hollow",
    "icon", "large", "light", "line", "linear", "lines", "mini", "micro", "monochrome", "o",
    "outline", "outlined", "outlines", "pixel", "plain", "regular", "round", "rounded", "s",
    "sharp", "small", "solid", "thick", "thin", "tone", "twotone", "two", "v", "variant", "wide",
])  # fmt: skip


def caption(name: str) -> str:
    """The words of an icon's name, as the data set's captions have them."""
    return name.replace("-", " ")


def concept(name: str) -> str:
    """The words of a name without those of style, and without numbers; "" where none is left."""
    words = name.split("-")
    return " ".join(word for word in words if word not in STYLES and not word.isdigit())
