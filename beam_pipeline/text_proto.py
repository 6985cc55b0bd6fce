"""Text-format protocol buffers, changed in place: everything that is not changed stays as it was, comments and all.

protobuf's own tokenizer says what the tokens are and which of them are values; the tree remembers where each lies in the text.
Names of fields and values of enums are not known here, only that enums are written in capitals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from google.protobuf import text_format

_CLOSING = {"{": "}", "<": ">"}
_DEEPEST = 100  # protobuf's own limit


class TextProtoError(ValueError):
    """The text can't be parsed, or not be changed in place. The message says where."""


@dataclass
class Block:
    """A message: its fields in order, and where its closing bracket is."""

    fields: list[Entry] = field(default_factory=list)
    end: int = 0

    def named(self, name: str) -> list[Entry]:
        """The fields of this name."""
        return [one for one in self.fields if one.name == name]

    def only(self, name: str) -> Entry | None:
        """The one field of this name, if any. Raises `TextProtoError` for a second, which protobuf would merge with the first."""
        found = self.named(name)
        if len(found) > 1:
            raise TextProtoError(f"line {found[1].line}: {name} stands here for the second time, make it one")
        return found[0] if found else None

    def message(self, *path: str) -> Block | None:
        """The message at the end of a path of field names, each of which may stand but once; None if there is none."""
        found = self
        for name in path:
            entry = found.only(name)
            if entry is None:
                return None
            found = entry.message()
        return found


@dataclass
class Entry:
    """A field: from `start` to `end` with its name, its value from `value_start`; `block` if that is a message.

    `after` is where a comma or semicolon behind it ends.
    """

    name: str
    line: int
    start: int
    value_start: int
    end: int
    after: int
    block: Block | None

    def message(self) -> Block:
        """The field's message. Raises `TextProtoError` if it has another value, or a list."""
        if self.block is None:
            raise TextProtoError(
                f"line {self.line}: expected {self.name} to be a message in brackets of its own: {self.name} {{ … }}"
            )
        return self.block


class Document:
    """A text, parsed, and the changes to be made to it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._parser = _Parser(text)
        self.root = self._parser.parse()
        self._edits: list[tuple[int, int, str]] = []
        self._newline = "\r\n" if text[: text.find("\n") + 1].endswith("\r\n") else "\n"

    def value(self, entry: Entry) -> str:
        """The text of a field's value."""
        return self.text[entry.value_start : entry.end]

    def lines_with(self, word: str) -> list[int]:
        """The numbers of the lines that have a word elsewhere than in a comment."""
        return sorted({self._parser.line(start) for token, start in self._parser.tokens if word in token})

    def set(self, block: Block, name: str, value: str) -> None:
        """Gives a scalar field one value, where it stands (the last, if it stands several times), or behind the others."""
        found = block.named(name)
        if not found:
            self.add(block, f"{name}: {value}")
        for entry in found[:-1]:
            self.remove(entry)
        for entry in found[-1:]:
            if self.value(entry) != value:
                self._edits.append((entry.value_start, entry.end, value))

    def remove(self, entry: Entry) -> None:
        """Takes a field away and the separator behind it; with its lines if it has them to itself."""
        line_start = self.text.rfind("\n", 0, entry.start) + 1
        line_end = self.text.find("\n", entry.after) + 1 or len(self.text)
        if not self.text[line_start : entry.start].strip() and not self.text[entry.after : line_end].strip():
            self._edits.append((line_start, line_end, ""))
            return
        blanks = len(self.text[entry.after : line_end]) - len(self.text[entry.after : line_end].lstrip(" \t"))
        self._edits.append((entry.start, entry.after + blanks, ""))

    def add(self, block: Block, text: str) -> None:
        """Adds lines at the end of a message, indented as its place asks for."""
        lines = text.split("\n")
        line_start = self.text.rfind("\n", 0, block.end) + 1
        closing = self.text[line_start : block.end]
        at, added = block.end, " " * (not closing[-1:].isspace()) + " ".join(line.strip() for line in lines) + " "
        if block is self.root:
            first = not any(start == at for start, _, _ in self._edits)
            added = (self._newline if closing and first else "") + "".join(line + self._newline for line in lines)
        elif not closing.strip():
            at, added = line_start, "".join(f"{closing}  {line}{self._newline}" for line in lines)
        self._edits.append((at, at, added))

    def result(self) -> str:
        """The text with all changes made. Raises `TextProtoError` if it can't be parsed any more."""
        pieces, position = [], 0
        for start, end, replacement in sorted(self._edits, key=lambda edit: edit[:2]):
            pieces += [self.text[position:start], replacement]
            position = end
        text = "".join(pieces) + self.text[position:]
        _Parser(text).parse()
        return text


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        if text.startswith("\ufeff"):
            raise TextProtoError("it begins with a byte order mark, which protobuf does not take: save it without")
        if "\r" in text and "\n" not in text:
            raise TextProtoError("its lines end in carriage returns alone, which protobuf does not take: save it with line feeds")
        self.tokens = list(self._tokens())
        self.position = 0

    def _tokens(self) -> Iterator[tuple[str, int]]:
        lines = self.text.split("\n")  # as protobuf itself does
        starts = [0]
        for line in lines:
            starts.append(starts[-1] + len(line) + 1)
        tokenizer = text_format.Tokenizer(lines)
        while not tokenizer.AtEnd():
            yield tokenizer.token, starts[tokenizer._line] + tokenizer._column
            tokenizer.NextToken()

    def line(self, offset: int) -> int:
        """The number of the line at an offset."""
        return self.text.count("\n", 0, offset) + 1

    def _error(self, expected: str) -> TextProtoError:
        token, offset = self._token(), self._offset()
        return TextProtoError(f"line {self.line(offset)}: found {repr(token) if token else 'the end of the file'}, {expected}")

    def _token(self) -> str:
        return self.tokens[self.position][0] if self.position < len(self.tokens) else ""

    def _offset(self) -> int:
        return self.tokens[self.position][1] if self.position < len(self.tokens) else len(self.text)

    def _next(self) -> int:
        """Goes behind a token; gives its end."""
        end = self._offset() + len(self._token())
        self.position += 1
        return end

    def parse(self) -> Block:
        """The whole text."""
        return self._block("", 0)

    def _block(self, closing: str, depth: int) -> Block:
        if depth > _DEEPEST:
            raise self._error(f"expected brackets at most {_DEEPEST} deep")
        block = Block()
        while self._token() != closing:
            block.fields.append(self._entry(closing, depth))
        block.end = self._offset()
        self._next()
        return block

    def _entry(self, closing: str, depth: int) -> Entry:
        name, start = self._token(), self._offset()
        if not name.isidentifier():
            raise self._error("expected the name of a field" + (f" or {closing!r}" if closing else ""))
        self._next()
        colon = self._token() == ":"
        if colon:
            self._next()
        value_start = self._offset()
        if not (colon or self._token() in ("[", *_CLOSING)):
            raise self._error(f"expected a colon or a bracket behind {name!r}")
        block, end = self._list(depth) if self._token() == "[" else self._value(depth)
        after = self._next() if self._token() in (",", ";") else end
        return Entry(name, self.line(start), start, value_start, end, after, block)

    def _list(self, depth: int) -> tuple[None, int]:
        self._next()
        while self._token() != "]":
            self._value(depth)
            if self._token() == ",":
                self._next()
                if self._token() != "]":
                    continue
                raise self._error("expected a value")
            if self._token() != "]":
                raise self._error("expected a comma or ']'")
        return None, self._next()

    def _value(self, depth: int) -> tuple[Block | None, int]:
        """Reads a message or a scalar; gives its end."""
        if self._token() in _CLOSING:
            closing = _CLOSING[self._token()]
            self._next()
            block = self._block(closing, depth + 1)
            return block, block.end + 1
        if not _is_scalar(self._token()):
            raise self._error("expected the string to end on its line" if self._token()[:1] in ("'", '"') else "expected a value")
        quoted = self._token()[0] in "'\""
        end = self._next()
        while quoted and self._token()[:1] in ("'", '"') and _is_scalar(self._token()):  # adjacent strings are one
            end = self._next()
        return None, end


def _is_scalar(token: str) -> bool:
    one = text_format.Tokenizer([token])
    for consume in (one.ConsumeByteString, one.ConsumeBool, one.ConsumeInteger, one.ConsumeFloat):
        try:
            consume()
            return True
        except text_format.ParseError:
            pass
    return token.isidentifier() and token.isupper()
