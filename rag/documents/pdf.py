"""PDF: the text of its pages, with the page on each paragraph."""

from __future__ import annotations

import io
import re

from pypdf import PdfReader
from pypdf.errors import DependencyError

from rag.config import FileLimits
from rag.documents.content import Content, TextBuilder, one_line
from rag.errors import DocumentTooLarge, UnreadableDocument
from rag.passages import Scalar

_TAIL = 1 << 16
"""Bytes at the end, in which the mark of the end must lie."""
_BLANK_LINE = re.compile(r"\n[ \t]*(?=\n)")
_LINE_HYPHEN = re.compile(r"(?<=[^\W\d_])[-\u2010\u00ad][ \t]*\n[ \t]*(?=[a-zß-öø-ÿ])")
_LONGEST_WORD = 40
_MADE_BY = re.compile(r"^Microsoft \w+ - ")
_NO_TITLES = frozenset({"", "untitled", "unknown", "title"})
_LIGATURES = str.maketrans({0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl", 0xFB05: "st"})
_MOST_PAGES_NAMED = 20


def read_pdf(data: bytes, limits: FileLimits) -> Content:
    """Metadata: `pages`, and `unreadable_pages` where single pages are damaged."""
    if b"%PDF-" not in data[:1024]:
        raise UnreadableDocument("is no PDF: it does not begin as one; if it is text, name it .txt.")
    if b"%%EOF" not in data[-_TAIL:]:
        raise UnreadableDocument("is cut off: the end of the PDF is missing; copy or download it again.")
    try:
        reader = _opened(data)
        pages = _page_count(reader, limits)
        title = _title(reader)
    except (UnreadableDocument, DocumentTooLarge, MemoryError):
        raise
    except Exception as error:  # pypdf raises whatever it stumbles over
        raise UnreadableDocument(f"is a damaged PDF: {_brief(error)}.") from error
    return _read_pages(reader, pages, title, limits)


def _brief(error: Exception) -> str:
    return one_line(str(error)).rstrip(".")[:200] or type(error).__name__


def _opened(data: bytes) -> PdfReader:
    """Decrypted with the empty password, with which most encrypted PDFs open."""
    reader = PdfReader(io.BytesIO(data))
    if reader.is_encrypted:
        try:
            opened = bool(reader.decrypt(""))
        except (DependencyError, RuntimeError) as error:
            raise UnreadableDocument(f"is encrypted in a way that cannot be read here: {_brief(error)}.") from error
        if not opened:
            raise UnreadableDocument(
                "is encrypted and needs a password; save it without one, for example with "
                "qpdf --decrypt --password=... in.pdf out.pdf."
            )
    return reader


def _page_count(reader: PdfReader, limits: FileLimits) -> int:
    pages = len(reader.pages)
    if pages == 0:
        raise UnreadableDocument("is a PDF without pages.")
    if pages > limits.max_pages:
        raise DocumentTooLarge(
            f"has {pages:,} pages, and {limits.max_pages:,} is the most for one PDF (rag.files.max_pages); "
            "split it, or raise the limit."
        )
    return pages


def _title(reader: PdfReader) -> str:
    said = reader.metadata.title if reader.metadata else None
    title = _MADE_BY.sub("", one_line(str(said or "")))
    return "" if title.lower() in _NO_TITLES else title


def _read_pages(reader: PdfReader, pages: int, title: str, limits: FileLimits) -> Content:
    builder, written = TextBuilder(limits), False
    damaged: dict[int, str] = {}
    for number in range(1, pages + 1):
        try:
            text = reader.pages[number - 1].extract_text()
        except MemoryError:
            raise
        except Exception as error:  # one damaged page costs no other
            damaged[number] = _brief(error)
            continue
        for paragraph in _BLANK_LINE.split(mended(text)):
            written = written or bool(paragraph.strip())
            builder.add("paragraph", paragraph.strip(), page=number)
    if len(damaged) == pages or (damaged and not written):
        number, why = next(iter(damaged.items()))
        raise UnreadableDocument(f"is a damaged PDF: no page of it can be read; page {number}: {why}.")
    if not written:
        raise UnreadableDocument(
            "has no text on its pages: it holds only images; run OCR first, for example: ocrmypdf in.pdf out.pdf."
        )
    metadata: dict[str, Scalar] = {"pages": pages}
    if damaged:
        metadata["unreadable_pages"] = ", ".join(map(str, list(damaged)[:_MOST_PAGES_NAMED]))
    return builder.content(title, metadata, headed=False)


def mended(text: str) -> str:
    """A page's text with words whole that were broken at line ends; `state-of-the-\\nart` keeps its hyphens."""
    text = text.translate(_LIGATURES)
    return _LINE_HYPHEN.sub(lambda hyphen: "-" if "-" in _word_before(text, hyphen.start()) else "", text)


def _word_before(text: str, end: int) -> str:
    return (text[max(0, end - _LONGEST_WORD) : end].split() or [""])[-1]
