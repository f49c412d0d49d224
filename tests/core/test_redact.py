"""Redaction: nothing that looks like a secret is left, nothing harmless is lost, and no input is too long or too odd."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relight.core.redact import DETECTORS, UNREADABLE, nfc, patterns, redact, redact_value, token

KEY_BLOCK = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow{}ABAAKC\nq2Fk==\n-----END RSA PRIVATE KEY-----"

# detector, text, what must be gone
SHAPES = [
    ("secret_api_key", "sk-proj-abcDEF1234567890abcdef", "abcDEF1234567890"),
    ("secret_api_key", "sk_live_51Habcdefghijklmnop", "51Habcdef"),
    ("secret_api_key", "AIzaSyA1234567890abcdefghijklmnopqrstuv", "SyA1234567890"),
    ("secret_api_key", "SG.abcdefghijklmnopqrst.uvwxyzABCDEFGHIJ", "uvwxyzABC"),
    ("secret_api_key", "glpat-abcdefghij0123456789", "abcdefghij"),
    ("secret_aws", "AKIAIOSFODNN7EXAMPLE", "IOSFODNN7"),
    ("secret_aws", "ASIAIOSFODNN7EXAMPLE", "IOSFODNN7"),
    ("secret_db_url", "postgresql://bob:p@ss/w0rd@db.internal:5432/prod", "w0rd"),
    ("secret_db_url", "postgresql+psycopg://bob:hunter2@db/prod", "hunter2"),
    ("secret_db_url", "mongodb+srv://bob:hunter2@cluster0.example.net", "hunter2"),
    ("secret_db_url", "redis://:hunter2@cache:6379/0", "hunter2"),
    ("secret_private_key", KEY_BLOCK, "MIIEow"),
    ("secret_private_key", KEY_BLOCK[:60], "MIIEow"),
    ("secret_private_key", KEY_BLOCK.replace("\n", "\\n"), "q2Fk"),
    ("secret_token", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w", "dozjgNryP4"),
    ("secret_token", "ghp_abcdefghijklmnopqrstuvwxyz0123456789", "uvwxyz"),
    ("secret_token", "github_pat_11ABCDEFG0abcdefghijklmn", "11ABCDEFG0"),
    ("secret_token", "xoxb-123456789012-abcdefghij", "abcdefghij"),
    ("pii_email", "alice.liddell+x@mail.example.co.uk", "liddell"),
    ("pii_email", "jürgen@exämple.de", "jürgen"),
    ("pii_phone", "+49 170 1234567", "1234567"),
    ("pii_phone", "(555) 123-4567", "123-4567"),
    ("pii_phone", "555-123-4567", "123-4567"),
    ("path_absolute", "/home/alice/secret-project/x.py", "alice"),
    ("path_absolute", "~/secret-project/x.py", "secret-project"),
    ("path_absolute", "C:\\Users\\alice\\x.py", "alice"),
    ("path_absolute", "C:/Users/alice/x.py", "alice"),
    ("path_absolute", "\\\\fileserver\\alice$\\x.docx", "alice"),
    ("path_absolute", "file:///home/alice/x.py", "alice"),
    ("path_absolute", "sqlite:////home/alice/jobs.db", "alice"),
]

KEYED = [
    ("secret_password", "password=hunter2"),
    ("secret_password", "password: hunter2"),
    ("secret_password", "Passwd = hunter2"),
    ("secret_password", "PWD:hunter2"),
    ("secret_password", "DB_PASSWORD=hunter2"),
    ("secret_password", "dbPass: hunter2"),
    ("secret_password", '"password": "hunter2 with blanks and \\" quotes, hunter2"'),
    ("secret_password", "{'password': 'hunter2'}"),
    ("secret_password", "password=b'hunter2 hunter2'"),
    ("secret_password", 'password="hunter2 without an end hunter2'),
    ("secret_password", "config['password'] = 'hunter2'"),
    ("secret_password", "password:\n  hunter2"),
    ("secret_password", r"{\"password\": \"hunter2\"}"),
    ("secret_password", "https://host/x?user=bob&password=hunter2&z=1"),
    ("secret_password", "password%3Dhunter2"),
    ("secret_password", "--db-password hunter2"),
    ("secret_password", "https://bob:hunter2@host/path"),
    ("secret_api_key", "api_key=hunter2"),
    ("secret_api_key", "apiKey: 'hunter2'"),
    ("secret_api_key", "X-Api-Key: hunter2"),
    ("secret_api_key", "client_secret=hunter2"),
    ("secret_aws", "aws_secret_access_key = hunter2/hunter2+hunter2"),
    ("secret_token", "token=hunter2"),
    ("secret_token", "access_token: hunter2"),
    ("secret_token", "tokenValue=hunter2"),
    ("secret_token", "Authorization: Bearer hunter2"),
    ("secret_token", "Authorization: Basic hunter2=="),
    ("secret_token", "sent Bearer hunter2"),
    ("secret_token", "Cookie: sid=hunter2; csrf=hunter2; z=hunter2"),
    ("secret_token", "Set-Cookie: sid=hunter2; Path=/"),
    ("secret_token", "my_secret=hunter2"),
    ("secret_token", "--token hunter2"),
    ("secret_token", "curl\x00--token\x00hunter2\x00-v"),
    ("secret_db_url", "DATABASE_URL=weird://hunter2"),
    ("env_var", "MY_SETTING=hunter2"),
    ("env_var", "export MY_SETTING='hunter2 hunter2'"),
    ("env_var", "{'env': 'MY_SETTING=hunter2'}"),
]

AROUND = [
    "{}",
    "a {} b",
    "a\n{}\nb",
    "a\\n{}\\nb",
    "a\x00{}\x00b",
    "a\x1b[0m {}",
    "\u202e{}",
    "('{}',)",
    '{{"a": "{}"}}',
    "a:{}",
]

HARMLESS = [
    "KeyError: 'fetch#0' in step extract[d-17]",
    "maximum context length is 8192, max_tokens=4096, total_tokens: 512, token_count=3, tokenizer: cl100k",
    "react@18.2.0 and/or 1/2, 24/7, N/A, I/O",
    "GET https://example.com/v1/jobs?page=2 -> 503",
    "see ./src/x.py and ../y.py or src/relight/core",
    "job 0190a0b0-1111-7222-8333-444455556666 took 1234567890 ns at 2026-07-05T10:11:12.123Z",
    "task-0123456789abcdef0123, sha256 9f86d081884c7d659a2feaa0c55ad015",
    "author: Bob, secretary: Eve, compass: north, bypass: true",
    "</div> {id}/items f(n)/m text/html */*",
    "日本語 — naïve café ✓ 👩‍👩‍👧",
    "C: drive, x = y, ratio 3:4",
    "",
]


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize(("detector", "text", "gone"), SHAPES)
def test_what_has_the_shape_of_a_secret_is_replaced_wherever_it_stands(
    detector: str, text: str, gone: str, around: str
) -> None:
    found = redact(around.format(text))

    assert gone not in found
    assert token(detector) in found


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize(("detector", "text"), KEYED)
def test_the_value_of_a_key_with_a_telling_name_is_replaced_and_the_name_stays(
    detector: str, text: str, around: str
) -> None:
    found = redact(around.format(text))

    assert "hunter2" not in found
    assert token(detector) in found


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_is_left_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_every_detector_has_a_token_that_names_its_category() -> None:
    assert [token(d) for d in DETECTORS[:1]] == ["[REDACTED:secret:secret_api_key]"]
    assert {token(d).split(":")[1] for d in DETECTORS} == {"secret", "pii", "path", "env"}
    assert {d for d, *_ in SHAPES} | {d for d, _ in KEYED} == set(DETECTORS)


def test_a_token_stays_what_it_is_under_any_name() -> None:
    for detector in DETECTORS:
        for text in ("password={}", 'FOO="{}"', "--token {}", "Cookie: {}", "Bearer {}", "a{}b", "{}{}"):
            shown = text.replace("{}", token(detector))
            assert redact(shown) == shown


def test_what_surrounds_a_secret_stays_readable() -> None:
    assert redact('boom in File "/usr/lib/x.py", line 3: user=bob password=hunter2') == (
        'boom in File "[REDACTED:path:path_absolute]", line 3: user=bob password=[REDACTED:secret:secret_password]'
    )
    assert redact("mail alice@example.com: no") == "mail [REDACTED:pii:pii_email]: no"
    assert redact("at /home/bob/x.py:12: no") == "at [REDACTED:path:path_absolute]:12: no"
    assert redact("https://bob:hunter2@host") == "https://[REDACTED:secret:secret_password]"


@pytest.mark.parametrize("length", [1, 4, 5, 499, 500, 501, 4_096, 100_000])
def test_no_value_is_too_short_or_too_long_to_be_hidden(length: int) -> None:
    value = "Zq" * length

    assert "Zq" not in redact(f"password={value}")
    assert "Zq" not in redact(f'"token": "{value}"')
    assert "Zq" not in redact(f"{value}@example.com", limit=10**6)
    assert "Zq" not in redact(f"/home/{value}/x", limit=10**6)


@pytest.mark.parametrize("before", range(440, 505))
def test_a_secret_that_straddles_the_cut_is_hidden_before_the_cut(before: int) -> None:
    for secret in ("AKIAIOSFODNN7EXAMPLE", "password=hunter2hunter2", "alice@example.com"):
        found = redact("x" * before + " " + secret)

        assert not re.search("AKIA|hunter|alice", found)
        assert len(found) <= 500


def test_a_cut_never_leaves_half_a_token_and_says_that_it_cut() -> None:
    for limit in range(1, 70):
        found = redact("abc AKIAIOSFODNN7EXAMPLE and so on for a while, and longer than that", limit=limit)

        assert len(found) <= limit
        assert found.endswith("…") and "…" not in found[:-1]
        assert found.count("[") == found.count(token("secret_aws"))
    assert redact("12345", limit=5) == "12345"
    assert redact("123456", limit=5) == "1234…"


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="limit"):
        redact("x", limit=0)


def test_control_characters_and_what_hides_text_are_escaped() -> None:
    assert redact("a\nb\tc\rd\x1b[31m\x00\x7f\x9b") == r"a\nb\tc\rd\x1b[31m\x00\x7f\x9b"
    assert redact("\u202etxt\u2066\u2028\u200b\ufeff\ud800\U000e0041") == (
        r"\u202etxt\u2066\u2028\u200b\ufeff\ud800\U000e0041"
    )
    assert redact("👩\u200d👧 و\u200cو") == "👩\u200d👧 و\u200cو"


def test_text_is_normalised_before_it_is_searched() -> None:
    assert redact("cafe\u0301") == "café"
    assert redact("pa\u0073\u0073word=hunter2") == f"password={token('secret_password')}"
    assert token("pii_email") in redact("ju\u0308rgen@example.com")


# Pieces that meet in the worst ways: tokens, halves of tokens, escapes, borders, keys, separators.
PIECES = [
    *(text for _, text, _ in SHAPES),
    *(text for _, text in KEYED),
    *map(token, DETECTORS),
    *list("=:/~\\\"'@.-_+%#;,()[]{}<>|…1xAé漢 \n\t\x00\x1b\u0301\u0338\u034f\u202e\ud800\u2126\u0344"),
    *re.split(" ", r":// // ~/ \\ \n \x41 \" %3D sk- SG. C: C:\ [REDACTED: [REDACTED:secret: hunter2 /home/bob"),
    *re.split(" ", "password pass Pass token secret api_key authorization cookie: bearer FOO= BAR --token --"),
    *("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"),
]
texts = st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text(max_size=80)


@settings(max_examples=400)
@given(texts, st.integers(1, 120) | st.just(500))
@example("password=hunter2 and more", 47)
@example("--token\n\x00//etc\t>", 12)
@example("cookie:\x1b/FOO://SG.  /", 500)
@example("FOOAKIAIOSFODNN7EXAMPLEFOO=\\", 30)
@example('password=\\"hunter2', 11)
@example("x://authorization(555) 123-4567a@b.co", 500)
@example("postgreshttp://u:p@hcookie:[REDACTED:secret:secret_token]  FOO=http://u:p@h", 500)
def test_redacting_again_changes_nothing(text: str, limit: int) -> None:
    once = redact(text, limit=limit)

    assert redact(once, limit=limit) == once
    assert len(once) <= limit
    assert once.isprintable() or not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]", once)
    assert unicodedata.is_normalized("NFC", once)


CANARIES = [
    "AKIACANARYCANARYCANARY",
    "sk-canarycanarycanary",
    "eyJcanarycanary.canary.canary",
    "canary.person@example.org",
    "postgres://canary:canary@canary/x",
    "/canary/canary.py",
    "E:\\canary\\canary.py",
    "+1-999-888-7777",
    "password=canary",
]


@settings(max_examples=300)
@given(texts, texts, st.sampled_from(CANARIES))
def test_no_surroundings_bring_a_secret_to_light(before: str, after: str, canary: str) -> None:
    # Blanks around, so that the neighbours cannot make another word of the secret.
    found = redact(f"{before} {canary} {after}", limit=10_000)

    assert not re.search("canary|CANARY|888-7777", found)


# Linear time. A quadratic pattern needs hours for these; nothing is timed.

LONG = [
    *list("a/-\\\"'1~; é\x00\u0301\u034f"),
    *re.split(
        " ", r"a@ a. a- a@a.a@ // \\a ~a \n \x41 %41 C:\ file:/ ://a: ://u:p [REDACTED: eyJ eyJ- sk- AKIA AAAAA_ AAA="
    ),
    *re.split(
        " ", r"-- --token --password password password= password:' password:\"\ api_key' token\\ cookie: cookie:; "
    ),
    *("password token secret ", "bearer ", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "+1 ", "(555) ", "555-123-"),
    *("SG.aaaaaaaaaaaaaaaaaaaa", "\u0327\u0301", "a\u0327\u0301", "\u0344"),
]


@pytest.mark.parametrize("piece", [piece for piece in LONG if piece])
def test_a_long_text_of_the_worst_sort_is_done(piece: str) -> None:
    size = 200_000
    text = (piece * (size // len(piece) + 1))[:size]

    found = redact(text, limit=size)

    assert len(found) <= size


@pytest.mark.slow
def test_a_megabyte_is_done() -> None:
    for piece in ("a@", "\\", "password", "-----BEGIN ", "\u0327\u0301", "--token", "a."):
        text = (piece * (2**20 // len(piece) + 1))[: 2**20]
        assert len(redact(text)) == 500


def test_no_pattern_repeats_a_repetition() -> None:
    for pattern in patterns():
        tree = re._parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE)  # type: ignore[attr-defined]
        assert list(_repeated_repetitions(tree, inside=False)) == []
    bad = re._parser.parse("(?:a+b?)+")  # type: ignore[attr-defined]
    assert list(_repeated_repetitions(bad, inside=False)) != []


def _repeated_repetitions(tree: Any, *, inside: bool) -> Iterator[Any]:
    for op, args in tree:
        unbounded = str(op).endswith("_REPEAT") and args[1] is re._constants.MAXREPEAT  # type: ignore[attr-defined]
        if unbounded and inside:
            yield op, args
        for part in args if isinstance(args, (list, tuple)) else ():
            for sub in part if isinstance(part, list) else [part]:
                if isinstance(sub, re._parser.SubPattern):  # type: ignore[attr-defined]
                    yield from _repeated_repetitions(sub, inside=inside or unbounded)


def test_a_run_of_combining_marks_is_broken_and_otherwise_nfc_is_nfc() -> None:
    marks = "a" + "\u0327\u0301" * 100

    assert nfc(nfc(marks)) == nfc(marks)
    assert unicodedata.is_normalized("NFC", nfc(marks))
    assert not re.search("[\u0301\u0327]{31}", nfc(marks))
    assert len(unicodedata.normalize("NFD", nfc(marks).replace("\u034f", ""))) == len(marks)
    assert nfc("e\u0301" * 50) == "é" * 50
    # a mark that is two marks in NFC makes the run longer than it was
    assert nfc(nfc("a" + "\u0344" * 40)) == nfc("a" + "\u0344" * 40)


@given(st.text())
def test_nfc_of_ordinary_text_is_unicodes(text: str) -> None:
    assert nfc(text) == unicodedata.normalize("NFC", text)


# Structures.

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def test_values_under_telling_names_are_dropped_whatever_they_are() -> None:
    found = redact_value(
        {
            "password": "x",
            "db_password": 1234,
            "auth": {"access_token": ["a", "b"], "user": "bob"},
            "apiKey": {"deep": {"er": "x"}},
            "client_secret": "y",
            "Authorization": "Basic abc",
            "max_tokens": 4096,
            "token_usage": {"prompt_tokens": 3},
            "token": None,
            "has_password": True,
        }
    )

    assert found == {
        "password": token("secret_password"),
        "db_password": token("secret_password"),
        "auth": {"access_token": token("secret_token"), "user": "bob"},
        "apiKey": token("secret_api_key"),
        "client_secret": token("secret_api_key"),
        "Authorization": token("secret_token"),
        "max_tokens": 4096,
        "token_usage": {"prompt_tokens": 3},
        "token": None,
        "has_password": True,
    }


def test_no_depth_hides_a_secret() -> None:
    value: Any = {"password": "hunter2", "note": "AKIAIOSFODNN7EXAMPLE"}
    for _ in range(50_000):
        value = {"a": [value]}

    found = redact_value(value)
    for _ in range(50_000):
        found = found["a"][0]

    assert found == {"password": token("secret_password"), "note": token("secret_aws")}


def test_what_is_not_json_like_is_dropped() -> None:
    class Bomb:
        def __str__(self) -> str:
            raise RuntimeError("user code must not be called")

        __repr__ = __str__

    assert redact_value({"a": Bomb(), "b": b"hunter2", "c": {1, 2}, ("t",): 1, 5: "x"}) == {
        "a": UNREADABLE,
        "b": UNREADABLE,
        "c": UNREADABLE,
        UNREADABLE: 1,
        "5": "x",
    }


def test_what_contains_itself_is_dropped_and_what_is_shared_is_kept() -> None:
    shared = ["x"]
    loop: dict[str, Any] = {"a": shared, "b": shared, "c": (1, 2)}
    loop["self"] = [loop]

    assert redact_value(loop) == {"a": ["x"], "b": ["x"], "c": [1, 2], "self": [UNREADABLE]}


def test_sharing_costs_nothing() -> None:
    value: Any = "x"
    for _ in range(100):
        value = [value, value]

    found = redact_value(value)
    for _ in range(100):
        found = found[1]
    assert found == "x"


def test_keys_are_redacted_and_stay_apart() -> None:
    found = redact_value({"a@b.com": 1, "c@d.com": 2, "plain": 3, "AKIAIOSFODNN7EXAMPLE": 4})

    assert found == {token("pii_email"): 1, f"{token('pii_email')}#2": 2, "plain": 3, token("secret_aws"): 4}


def test_the_value_given_is_not_changed() -> None:
    value = {"password": "hunter2", "a": ["AKIAIOSFODNN7EXAMPLE", {}], "b": []}
    copy = json.loads(json.dumps(value))

    redact_value(value)

    assert value == copy


@given(json_values)
@example({"--tokenfile:///home/alice/x.py": []})
def test_redacting_a_structure_again_changes_nothing(value: Any) -> None:
    once = redact_value(value)

    assert redact_value(once) == once
    assert json.dumps(once)


@given(st.data(), json_values)
def test_a_canary_planted_anywhere_is_gone(data: st.DataObject, value: Any) -> None:
    canary = "ghp_canarycanarycanarycanary0123456789"
    planted = _plant(data, value, canary)

    assert canary not in json.dumps(redact_value(planted, limit=10_000))


def _plant(data: st.DataObject, value: Any, canary: str) -> Any:
    where = data.draw(st.integers(0, 3))
    if isinstance(value, dict) and value and where:
        key = data.draw(st.sampled_from(sorted(value)))
        return value | {key: _plant(data, value[key], canary)}
    if isinstance(value, list) and value and where:
        at = data.draw(st.integers(0, len(value) - 1))
        return [*value[:at], _plant(data, value[at], canary), *value[at + 1 :]]
    return data.draw(
        st.sampled_from([canary, [canary], {"k": canary}, {f"x {canary} y": 1}, f"a\n{canary}\x00b", f"'{canary}'"])
    )
