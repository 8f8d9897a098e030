"""The Markdown of model cards as blocks."""

from xray_batch.bundle import MODEL_CARD_NAME, PACKAGED_BUNDLES
from xray_batch.web.markdown import Block, read_blocks


def test_blocks():
    """Headings, paragraphs over several lines, lists and tables are told apart; code and bold are pieces of a line."""
    text = "# Title\nA `code`, **bold**\nline.\n\n- one\n  goes on\n- two\n\n| a | b |\n|---|--:|\n| 1 | `2` |\n"
    assert read_blocks(text) == [
        Block(kind="heading", level=1, lines=[[("Title", "")]]),
        Block(kind="paragraph", lines=[[("A ", ""), ("code", "code"), (", ", ""), ("bold", "strong"), (" line.", "")]]),
        Block(kind="list", lines=[[("one goes on", "")], [("two", "")]]),
        Block(kind="table", header=[[("a", "")], [("b", "")]], rows=[[[("1", "")], [("2", "code")]]]),
    ]


def test_anything_else_is_text():
    """HTML, links and unfinished marks are text, not a character of which is lost."""
    text = "<script>alert(1)</script> [link](javascript:alert(1)) ** `"
    assert read_blocks(text) == [Block(kind="paragraph", lines=[[(text, "")]])]
    assert read_blocks("") == []


def test_packaged_card():
    """The packaged bundle's card has headings and tables, and no mark of one is left in a paragraph."""
    blocks = read_blocks((PACKAGED_BUNDLES / "default" / MODEL_CARD_NAME).read_text(encoding="utf-8"))
    assert {block.kind for block in blocks} >= {"heading", "paragraph", "table"}
    paragraphs = ["".join(text for text, _ in block.lines[0]) for block in blocks if block.kind == "paragraph"]
    assert not [text for text in paragraphs if text.startswith(("#", "|", "- "))]
