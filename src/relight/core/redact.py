r"""Redaction: what may hold text goes through here before it is written to the flight recorder, a log or a bundle.

**Promise.** ``redact`` replaces what looks like a secret, a person's address, a path or an environment setting by
``[REDACTED:<category>:<detector>]``. It never raises on text, its cost grows linearly with the text, its output is
NFC, holds no control character, no bidirectional override, no lone surrogate, is at most ``limit`` long, and
redacting it again changes nothing.

**Order**: escape, NFC, detect, and only then cut, so a secret that straddles the cut is still seen whole and no value
is too long to be hidden (Airflow's CVE-2025-68438 was a length threshold). Detection has three passes: values by
their key's name (``password=…``), values of command line options (``--token …``), then shapes (``AKIA…``, a path).

**Linear** because no pattern repeats a repetition, and a pattern may scan ahead without a bound only from the start
of a run that it reads to its end (a lookbehind keeps it from starting again inside), or when it cannot fail any more.

**Idempotent** because of five rules that every new pattern has to keep:
1. a token is matched first and stays; nothing is cut inside it, nor inside an escape;
2. a match goes on to the end of its run (``_RUN``): the next match then never begins right behind a token, where a
   lookbehind would see the token instead of the text that was there;
3. a pattern says what must follow, never what must not (``(?!…)`` on the very next letter aside): else cutting the
   text could create a match;
4. what stands before a character that must follow takes no ``[``: else a token could complete a match;
5. control characters are escaped before detection, and the patterns take an escape (``\n``, ``\x1b``) for a border.

Hiding too much is the cheaper mistake: after a hidden value the rest of its run goes too. Not done here: known values
in other encodings (base64, URL), which need the list of values. Read next: ``events.py``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

DETECTORS: Final = (
    "secret_api_key",
    "secret_aws",
    "secret_db_url",
    "secret_private_key",
    "secret_password",
    "secret_token",
    "pii_email",
    "pii_phone",
    "path_absolute",
    "env_var",
)
"""The detectors' names, as the source specification has them."""

UNREADABLE: Final = "[REDACTED:other:unreadable]"
"""Stands for what is not JSON-like, or contains itself: the field is dropped rather than guessed at."""

CUT_MARK: Final = "…"


def token(detector: str) -> str:
    """Return what stands in place of a value that ``detector`` found; the category is the name's first word."""
    return f"[REDACTED:{detector.partition('_')[0]}:{detector}]"


def redact(text: str, *, limit: int = 500) -> str:
    """Hide secrets, personal data, absolute paths and environment values; then cut to ``limit`` characters.

    A cut text ends with ``…``, inside the limit. Raises ``ValueError`` when ``limit`` is below 1.
    Cost: linear in the whole text, about 0.7 µs a character, 3 µs one that is escaped.
    """
    if limit < 1:
        raise ValueError(f"limit must be 1 or more, not {limit}")
    shown = _redacted(text, limit)
    while shown.endswith(CUT_MARK) and (again := _redacted(shown, limit)) != shown:
        shown = again  # what the cut left looks like something else now; each time the text gets shorter, or has a token more
    return shown


def _redacted(text: str, limit: int) -> str:
    keyed, option, shaped = patterns()
    text = nfc(_CONTROL.sub(_escaped, text))
    text = keyed.sub(_hide_keyed, text)
    if "--" in text:
        text = option.sub(_hide_keyed, text)
    return _cut(shaped.sub(_hide_shaped, text), limit)


def redact_value(value: Any, *, limit: int = 500) -> Any:
    """Return a copy of a JSON-like value in which every text is redacted and values under secret names are dropped.

    Takes dicts, lists, tuples (which become lists), text, numbers, booleans and None, at any depth; anything else, and
    what contains itself, becomes ``UNREADABLE``. Keys are redacted too; keys that become equal are numbered.
    ``limit`` holds for each text.
    """
    root: list[Any] = [value]
    open_ids: set[int] = set()
    done: dict[int, Any] = {}
    # (container, its copy, slots still to be filled): a stack of our own, so that depth costs memory, not frames
    stack: list[tuple[Any, Any, Iterator[tuple[Any, Any]]]] = [(root, root, iter([(0, value)]))]
    while stack:
        source, copy, slots = stack[-1]
        for slot, item in slots:
            if id(item) in open_ids:
                copy[slot] = UNREADABLE
            elif id(item) in done:
                copy[slot] = done[id(item)]
            elif isinstance(item, (dict, list, tuple)):
                child, child_slots = _open_dict(item, limit) if isinstance(item, dict) else _open_list(item)
                copy[slot] = child
                open_ids.add(id(item))
                stack.append((item, child, child_slots))
                break
            else:
                copy[slot] = _leaf(item, limit)
        else:
            stack.pop()
            open_ids.discard(id(source))
            done[id(source)] = copy
    return root[0]


def nfc(text: str) -> str:
    """Return the text in Unicode normal form C, in linear time.

    CPython sorts combining marks by insertion: a megabyte of them would take eight minutes. So runs are broken after
    30 marks by U+034F, as the Stream-Safe Text Format does (Unicode Standard Annex 15, section 13).
    """
    if text.isascii():
        return text
    return _broken_runs(unicodedata.normalize("NFC", _broken_runs(text)))


_MARKS_IN_A_ROW = 30


def _broken_runs(text: str) -> str:
    combining = unicodedata.combining
    breaks: list[int] = []
    run = 0
    for i, char in enumerate(text):
        if char < "\u0300" or not combining(char):
            run = 0
        elif run == _MARKS_IN_A_ROW:
            breaks.append(i)
            run = 1
        else:
            run += 1
    if not breaks:
        return text
    return "\u034f".join(text[a:b] for a, b in zip([0, *breaks], [*breaks, len(text)], strict=True))


# Cc, lone surrogates, line and paragraph separators, bidirectional controls, invisible blanks, tags. Zero-width joiners
# stay: scripts and emoji need them.
_CONTROL: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_SHORT_ESCAPES: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def _escaped(m: re.Match[str]) -> str:
    char = m.group()
    code = ord(char)
    if code < 0x100:
        return _SHORT_ESCAPES.get(char) or f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# Patterns.

_TOKEN_SOURCE: Final = "|".join(re.escape(t) for t in (*map(token, DETECTORS), UNREADABLE))
_TOKEN: Final = re.compile(_TOKEN_SOURCE)
_LONGEST_TOKEN: Final = max(len(t) for t in (*map(token, DETECTORS), UNREADABLE))

_KEY_WORDS: Final = (
    ("secret_aws", r"(?i:aws[_-]?secret[_-]?access[_-]?key|aws[_-]?session[_-]?token|aws[_-]?access[_-]?key)"),
    ("secret_db_url", r"(?i:database[_-]?url|db[_-]?url|connection[_-]?string|conn[_-]?str)"),
    ("secret_db_url", r"(?<![A-Za-z])(?:dsn|DSN)(?![A-Za-z])"),
    ("secret_private_key", r"(?i:private[_-]?key)"),
    (
        "secret_api_key",
        r"(?i:api[_ -]?key|(?:access|secret|encryption|signing|account|subscription)[_ -]?key|client[_-]?secret)",
    ),
    ("secret_password", r"(?i:passw(?:or)?d|passphrase|passcode|credential)"),
    ("secret_password", r"(?:pwd|Pwd)(?![a-z])|PWD|(?<![A-Za-z])pass(?![A-Za-z])|(?<=[a-z_])Pass(?![a-z])|(?<=_)PASS"),
    ("secret_token", r"(?i:token)(?![a-zS]|[_ -]?(?i:count|limit|usage|budget|type))"),
    ("secret_token", r"(?i:secret)(?![a-rt-z])|(?i:authorization|cookie|amz-signature)|(?i:jwt|[_-]auth)(?![a-z])"),
)
"""Names of keys whose values are hidden. The first that is found names the detector. ``max_tokens`` is none of them."""

_KEY_SOURCE: Final = "|".join(pattern for _, pattern in _KEY_WORDS)
_KEY: Final = tuple((detector, re.compile(pattern)) for detector, pattern in _KEY_WORDS)

# A value: in quotes to the closing one (to the end of the text if there is none), in escaped quotes (JSON inside JSON)
# to the next, else to the next blank; a bare value may hold commas, brackets and tokens. A line of cookies goes on
# behind each semicolon.
_VALUE: Final = (
    r'(?:[bu]?"(?P<dq>(?:[^"\\]|\\.?)*+)'
    r"|[bu]?'(?P<sq>(?:[^'\\]|\\.?)*+)"
    r"|\\++[\"'](?P<eq>[^\"']*+)"
    r"|(?P<bare>(?:(?i:bearer|basic|digest|token|negotiate)\s++)?[^\s\"']\S*+))"
)

# A word's border: no word character before, or an escape (\n, %3D), whose last letter is no part of the word.
_AFTER_ESCAPE: Final = r"(?<=\\[abfnrtv])|(?<=\\x[0-9a-fA-F]{2})|(?<=\\u[0-9a-fA-F]{4})"
_BORDER: Final = rf"(?:(?<!\w)|{_AFTER_ESCAPE}|(?<=%[0-9a-fA-F]{{2}}))"
_GAP: Final = r"(?:\s|\\[nrt])*+"
# What stands between a program's arguments: a blank, or NUL in /proc/<pid>/cmdline.
_BLANKS: Final = r"(?:\s|\\[nrt]|\\x00)++"

_RUN: Final = r"[\w.@%+=/~-]*+"
_ESCAPE: Final = r"\\(?:[abfnrtv]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})"
_WHOLE_ESCAPE: Final = re.compile(_ESCAPE)
_PEM: Final = r"-----{} [A-Z0-9 ]{{0,40}}PRIVATE KEY(?: BLOCK)?-----"
_DIGIT: Final = r"[ ().-]{0,2}\d"

_DB_SCHEMES: Final = (
    r"postgres(?:ql)?|mysql|mariadb|mongodb|rediss?|valkey|amqps?|mssql|sqlserver|oracle|clickhouse|snowflake"
    r"|cockroachdb|neo4j|bolt"
)
_API_KEYS: Final = (
    r"sk-[\w-]{12}|(?:sk|rk|pk)_(?:live|test)_\w{8}|AIza[\w-]{30}|SG\.[\w-]{16,64}\.|hf_\w{20}|npm_\w{20}"
    r"|pypi-[\w-]{30}|glpat-[\w-]{16}|shp(?:at|ss|ca|pa)_\w{20}|dop_v1_\w{20}|xkeysib-\w{20}|whsec_\w{16}"
)
_TOKENS: Final = (
    r"eyJ[\w-]{10}|gh[pousr]_\w{20}|github_pat_\w{20}|xox[a-z]-[\w-]{10}|xapp-[\w-]{10}|\d{8,10}:AA[\w-]{30}"
)
_MAIL_START: Final = rf"(?:(?<![\w.%+-])|{_AFTER_ESCAPE})"
_PATH_START: Final = rf"(?:(?<![\w./~<)\]}}*])|{_AFTER_ESCAPE})"

# Ordered: at one position the first wins. A group's name is its detector, with a digit where a detector has several.
_SHAPES: Final = (
    # a key block runs to its end line, or to the end of the text when that is missing
    rf"(?P<secret_private_key>{_PEM.format('BEGIN')}(?:.*?{_PEM.format('END')}|.*+){_RUN})",
    rf"(?P<secret_db_url>(?i:{_DB_SCHEMES})(?:\+\w{{1,20}})?://[^\s\"'<>]++)",
    r"(?P<secret_password>(?<=://)[^\s/@:\"'<>[]*+:[^\s/@\"'<>[]*+@[^\s\"'<>]*+)",
    rf"(?P<secret_aws>(?:AKIA|ASIA|AGPA|AIDA|AROA|AIPA|ANPA|ANVA)[A-Z0-9]{{16}}{_RUN})",
    r"(?P<path_absolute1>(?<!\\)\\\\++[\w.$-]++\\[^\s\"'<>|]*+)",
    _ESCAPE,
    rf"(?P<pii_phone1>\(\d{{3}}\) ?\d{{3}}[-. ]\d{{4}}{_RUN})",
    rf"(?P<path_absolute2>(?i:file|sqlite)(?:\+\w{{1,20}})?:/{{1,4}}[\w.~-]{_RUN})",
    rf"{_BORDER}(?P<secret_api_key>(?:{_API_KEYS}){_RUN})",
    rf"{_BORDER}(?P<secret_token>(?:{_TOKENS}){_RUN})",
    rf"{_BORDER}(?P<path_absolute3>[A-Za-z]:[\\/][^\s\"'<>|]*+)",
    rf"{_BORDER}(?P<pii_phone2>(?:\+\d{_DIGIT * 6}|\d{{3}}[-.]\d{{3}}[-.]\d{{4}}){_RUN})",
    rf"(?P<pii_email>{_MAIL_START}[\w.%+-]++@[\w.-]*?\.[^\W\d_]{{2}}{_RUN})",
    rf"(?P<path_absolute4>{_PATH_START}(?:~[\w-]{{0,32}}/[\w.]|/[\w.@%+~-]{{2}}|/[\w.@%+~-]/){_RUN})",
)


@cache
def patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Return the three passes' patterns: keyed values, options' values, shapes. Compiled at the first redaction."""
    keyed = (
        rf"(?s){_TOKEN_SOURCE}"
        rf"|(?i:cookie)\s*+:{_GAP}(?P<line>[^\s\"'](?:\S|(?<=;)\s)*+)"
        rf"|(?:(?P<key>{_KEY_SOURCE})[\w-]{{0,64}}[\\\"'\])]{{0,6}}\s*+(?:[:=]{{1,3}}>?|%3[dD]){_GAP}"
        rf"|(?P<bearer>(?i:bearer))[\s:=]++|{_BORDER}(?P<env>[A-Z][A-Z0-9_]{{2,}}+)=){_VALUE}"
    )
    option = (
        rf"(?s){_TOKEN_SOURCE}"
        rf"|(?:(?<![\w-])|{_AFTER_ESCAPE})--[\w-]{{0,40}}?(?P<key>{_KEY_SOURCE})[\w-]{{0,64}}{_BLANKS}{_VALUE}"
    )
    return re.compile(keyed), re.compile(option), re.compile(rf"(?s){_TOKEN_SOURCE}|{'|'.join(_SHAPES)}")


# Replacement.


def _hide_keyed(m: re.Match[str]) -> str:
    group = m.lastgroup
    if group is None:
        return m.group()
    found = m.groupdict()
    if found["key"]:
        start, end = m.span("key")
        # with its neighbours: some words are told apart by what stands beside them
        return _hide_value(m, group, _detector_of(m.string[max(start - 1, 0) : end + 1]) or "secret_token")
    if name := found.get("env"):
        return _hide_value(m, group, _detector_of(name) or "env_var")
    return _hide_value(m, group, "secret_token")


def _hide_shaped(m: re.Match[str]) -> str:
    return m.group() if m.lastgroup is None else token(m.lastgroup.rstrip("1234"))


def _hide_value(m: re.Match[str], group: str, detector: str) -> str:
    # backslashes alone are no value: they are what is left of a quote in front of the cut
    value = m[group].removesuffix(CUT_MARK).rstrip("\\")
    if not value or _TOKEN.fullmatch(value):
        return m.group()
    return m.string[m.start() : m.start(group)] + token(detector)


def _detector_of(key: str) -> str | None:
    return next((detector for detector, pattern in _KEY if pattern.search(key)), None)


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    end = limit - 1
    for first, whole, longest in (("[", _TOKEN, _LONGEST_TOKEN), ("\\", _WHOLE_ESCAPE, 10)):
        start = text.rfind(first, max(0, end - longest), end)
        if start >= 0 and (m := whole.match(text, start)) and m.end() > end:
            end = start
    return text[:end] + CUT_MARK


# Structures.


def _leaf(item: Any, limit: int) -> Any:
    if isinstance(item, str):
        return redact(item, limit=limit)
    return item if item is None or isinstance(item, (bool, int, float)) else UNREADABLE


def _open_list(items: Any) -> tuple[list[Any], Iterator[tuple[Any, Any]]]:
    return [None] * len(items), enumerate(items)


def _open_dict(items: dict[Any, Any], limit: int) -> tuple[dict[str, Any], Iterator[tuple[Any, Any]]]:
    copy: dict[str, Any] = {}
    counts: dict[str, int] = {}

    def slots() -> Iterator[tuple[str, Any]]:
        for key, value in items.items():
            text = str(key) if isinstance(key, (str, int, float)) or key is None else UNREADABLE
            shown = _free_key(redact(text, limit=limit), copy, counts)
            # as it was and as it is shown, so that a second redaction finds no more; tokens' own names do not count
            detector = _detector_of(_TOKEN.sub("|", text)) or _detector_of(_TOKEN.sub("|", shown))
            yield shown, value if detector is None else _dropped(value, detector)

    return copy, slots()


def _free_key(key: str, taken: dict[str, Any], counts: dict[str, int]) -> str:
    free = key
    while free in taken:
        counts[key] = counts.get(key, 1) + 1
        free = f"{key}#{counts[key]}"
    return free


def _dropped(value: Any, detector: str) -> Any:
    if value is None or isinstance(value, bool) or (isinstance(value, str) and (not value or _TOKEN.fullmatch(value))):
        return value
    return token(detector)
