"""Text-format protocol buffers, changed in place: everything that is not changed stays as it was, comments and all.

protobuf's own tokenizer says what the tokens are; the tree remembers where each lies in the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from google.protobuf import text_format

_CLOSING = {"{": "}", "<": ">"}


class TextProtoError(ValueError):
    """The text can't be parsed. The message says where."""


@dataclass
class Block:
    """A message: its fields in order, and where its body lies between the brackets."""

    fields: list[Entry] = field(default_factory=list)
    start: int = 0
    end: int = 0

    def named(self, name: str) -> list[Entry]:
        """The fields of this name."""
        return [one for one in self.fields if one.name == name]

    def block(self, *path: str) -> Block | None:
        """The message at the end of a path of field names, the last of each name; None if there is none."""
        found: Block | None = self
        for name in path:
            blocks = [one.block for one in found.named(name) if one.block is not None] if found else []
            found = blocks[-1] if blocks else None
        return found


@dataclass
class Entry:
    """A field: from `start` to `end` with its name, its value from `value_start`; `block` if that is a message."""

    name: str
    start: int
    end: int
    value_start: int
    block: Block | None


class Document:
    """A text, parsed, and the changes to be made to it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.root = _Parser(text).parse()
        self._edits: list[tuple[int, int, str]] = []

    def value(self, entry: Entry) -> str:
        """The text of a field's value."""
        return self.text[entry.value_start : entry.end]

    def set(self, block: Block, name: str, value: str) -> None:
        """Gives a scalar field one value, where it stands (the last, if it stands several times), or behind the others."""
        found = block.named(name)
        if not found:
            self.add(block, f"{name}: {value}")
        for entry in found[:-1]:
            self._remove(entry)
        for entry in found[-1:]:
            if self.value(entry) != value:
                self._edits.append((entry.value_start, entry.end, value))

    def remove(self, block: Block, name: str) -> None:
        """Takes a field away, with its line if it has one to itself."""
        for entry in block.named(name):
            self._remove(entry)

    def add(self, block: Block, text: str) -> None:
        """Adds lines at the end of a message, indented as its place asks for."""
        line_start = self.text.rfind("\n", 0, block.end) + 1
        closing = self.text[line_start : block.end]
        if closing.strip() or (block is self.root):
            at, indent = block.end, "" if block is self.root else " "
            body = text if block is self.root else " ".join(text.split())
            self._edits.append((at, at, f"{body}\n" if block is self.root else f"{indent}{body} "))
            return
        lines = "".join(f"{closing}  {line}\n" for line in text.splitlines())
        self._edits.append((line_start, line_start, lines))

    def result(self) -> str:
        """The text with all changes made."""
        text = self.text
        for start, end, replacement in sorted(self._edits, key=lambda edit: edit[0], reverse=True):
            text = text[:start] + replacement + text[end:]
        return text

    def _remove(self, entry: Entry) -> None:
        line_start = self.text.rfind("\n", 0, entry.start) + 1
        line_end = self.text.find("\n", entry.end) + 1 or len(self.text)
        alone = not self.text[line_start : entry.start].strip() and not self.text[entry.end : line_end].strip(" \t\r\n,;")
        self._edits.append((line_start, line_end, "") if alone else (entry.start, entry.end, ""))


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        lines = text.splitlines(keepends=True)
        self.line_starts = [0]
        for line in lines:
            self.line_starts.append(self.line_starts[-1] + len(line))
        self.tokens = list(self._tokens(lines))
        self.position = 0

    def _tokens(self, lines: list[str]) -> Iterator[tuple[str, int]]:
        try:
            tokenizer = text_format.Tokenizer(lines)
            while not tokenizer.AtEnd():
                yield tokenizer.token, self.line_starts[tokenizer._line] + tokenizer._column
                tokenizer.NextToken()
        except text_format.ParseError as error:
            raise TextProtoError(str(error)) from None

    def _where(self) -> str:
        offset = self.tokens[self.position][1] if self.position < len(self.tokens) else len(self.text)
        line = self.text.count("\n", 0, offset) + 1
        found = repr(self._token()) if self._token() else "the end of the file"
        return f"line {line}: found {found}"

    def _token(self) -> str:
        return self.tokens[self.position][0] if self.position < len(self.tokens) else ""

    def _next(self) -> tuple[str, int]:
        if self.position >= len(self.tokens):
            raise TextProtoError(f"{self._where()}, expected more")
        self.position += 1
        return self.tokens[self.position - 1]

    def parse(self) -> Block:
        """The whole text."""
        root = self._block("")
        root.end = len(self.text)
        return root

    def _block(self, closing: str) -> Block:
        block = Block(start=self.tokens[self.position - 1][1] + 1 if closing else 0)
        while self._token() != closing:
            block.fields.append(self._entry())
            if self._token() in (",", ";") and self._token():
                self.position += 1
        if closing:
            block.end = self._next()[1]
        return block

    def _entry(self) -> Entry:
        if not (self._token().isidentifier() or self._token() == "["):
            raise TextProtoError(f"{self._where()}, expected the name of a field")
        name, start = self._next()
        colon = self._token() == ":"
        if colon:
            self._next()
        value_start = self.tokens[self.position][1] if self.position < len(self.tokens) else len(self.text)
        if self._token() in _CLOSING:
            block = self._block(_CLOSING[self._next()[0]])
            return Entry(name, start, block.end + 1, value_start, block)
        if not colon:
            raise TextProtoError(f"{self._where()}, expected a colon or a bracket behind {name!r}")
        return Entry(name, start, self._value(), value_start, None)

    def _value(self) -> int:
        """Reads a scalar or a list; gives its end."""
        token, start = self._next()
        if token == "[":
            while self._token() != "]":
                if self._token() in _CLOSING:
                    self._block(_CLOSING[self._next()[0]])
                else:
                    self._value()
                if self._token() == ",":
                    self._next()
            return self._next()[1] + 1
        if token in ("}", ">", "]", ":", ""):
            self.position -= 1
            raise TextProtoError(f"{self._where()}, expected a value")
        end = start + len(token)
        while token[0] in "\"'" and self._token()[:1] in ('"', "'") and self._token():  # adjacent strings are one
            more, start = self._next()
            end = start + len(more)
        return end
