"""What Ripio signs: vectors that always run, the same put to JavaScript itself, and independent signatures."""

from __future__ import annotations

import base64
import copy
import enum
import hashlib
import hmac
import json
import math
import pickle
import random
import shutil
import struct
import subprocess
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.ripio.auth import JsonValue, Signer, business_json, number_text
from tronsave_async import Secret
from tronsave_async.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKEN, KEY = "token-1f9c", "key-77aa"
NOW = 1634567890000
ORDER = "7155ED34-9EC4-4733-8B32-1E4319CB662F"
NODE = shutil.which("node")


def signer(*, token: str = TOKEN, key: str = KEY, **options: str) -> Signer:
    """Return a signer."""
    return Signer(Secret(token), Secret(key), **options)


def hmac_of(text: bytes, key: str = KEY) -> str:
    """Compute a signature in the plainest way."""
    return base64.b64encode(hmac.new(key.encode(), text, hashlib.sha256).digest()).decode()


def javascript(program: str, lines: list[str]) -> list[str]:
    """Run a function of one line in Node.js, for each line."""
    script = f"""
        const handle = {program};
        const lines = require('fs').readFileSync(0, 'utf8').split('\\n');
        process.stdout.write(lines.map(handle).join('\\n'));
    """
    assert NODE is not None
    run = subprocess.run(
        [NODE, "-e", script],
        input="\n".join(lines).encode(),
        capture_output=True,
        check=True,
        timeout=15,
    )
    return run.stdout.decode().split("\n")


needs_node = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")

# --- numbers --------------------------------------------------------------------------------------

# ECMA-262, Number::toString; the same table is put to Node.js below.
PRINTED: list[tuple[int | float | Decimal, str]] = [
    (0, "0"),
    (0.0, "0"),
    (-0.0, "0"),
    (Decimal("-0.00"), "0"),
    (Decimal("0E+30"), "0"),
    (1, "1"),
    (-1, "-1"),
    (1.0, "1"),
    (10, "10"),
    (100, "100"),
    (100000.0, "100000"),
    (0.1, "0.1"),
    (-0.1, "-0.1"),
    (1.5, "1.5"),
    (4.35, "4.35"),
    (0.1 + 0.2, "0.30000000000000004"),
    (12.34e5, "1234000"),
    (123.456, "123.456"),
    (1e-5, "0.00001"),
    (1e-6, "0.000001"),
    (1.5e-6, "0.0000015"),
    (-1.5e-6, "-0.0000015"),
    (9.99e-7, "9.99e-7"),
    (1e-7, "1e-7"),
    (-1e-7, "-1e-7"),
    (1.25e-7, "1.25e-7"),
    (1e-10, "1e-10"),
    (1e15, "1000000000000000"),
    (1e16, "10000000000000000"),
    (1.2345e17, "123450000000000000"),
    (1e20, "100000000000000000000"),
    (100000000000000000000, "100000000000000000000"),
    (123456789012345680000, "123456789012345680000"),
    (999999999999999900000.0, "999999999999999900000"),
    (1e21, "1e+21"),
    (-1e21, "-1e+21"),
    (1.5e21, "1.5e+21"),
    (1e22, "1e+22"),
    (1.7976931348623157e308, "1.7976931348623157e+308"),
    (2.2250738585072014e-308, "2.2250738585072014e-308"),
    (5e-324, "5e-324"),
    (-5e-324, "-5e-324"),
    (2**53, "9007199254740992"),
    (2**53 + 1, "9007199254740992"),
    (2**53 + 2, "9007199254740994"),
    (2**53 + 3, "9007199254740996"),
    (2**64, "18446744073709552000"),
    (10**23, "1e+23"),
    (Decimal("0.10"), "0.1"),
    (Decimal("1E+2"), "100"),
    (Decimal("1E+21"), "1e+21"),
    (Decimal("1E-7"), "1e-7"),
    (Decimal("0.12345678901234567890"), "0.12345678901234568"),
    (Decimal("1E-400"), "0"),
]


@pytest.mark.parametrize(("value", "text"), PRINTED, ids=repr)
def test_a_number_is_printed_as_in_javascript(value: float | Decimal, text: str) -> None:
    """The corners of ECMAScript's notation, for all types of numbers."""
    assert number_text(value) == text


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        Decimal("1E+309"),
        10**309,
        -(10**5000),
    ],
    ids=["nan", "inf", "-inf", "NaN", "sNaN", "Infinity", "1E+309", "10**309", "-10**5000"],
)
def test_a_number_beyond_a_double_is_refused(value: float | Decimal) -> None:
    """JavaScript would print null, and sign it."""
    with pytest.raises(UsageError, match=r"^a number must be finite, and within the range"):
        number_text(value)


DOUBLES = st.floats(allow_nan=False, allow_infinity=False)


@given(DOUBLES)
def test_a_printed_number_reads_back(value: float) -> None:
    """Whatever the notation: it is the same double, and has no more than 17 digits."""
    text = number_text(value)
    assert float(text) == value
    assert len(Decimal(text).normalize().as_tuple().digits) <= 17


def random_doubles() -> list[float]:
    """Return doubles of any bits, decimals of 1 to 17 digits, integers, and corners."""
    dice = random.Random(20)
    bits = [struct.unpack("<d", dice.randbytes(8))[0] for _ in range(4000)]
    decimals = [
        float(f"{dice.randrange(10 ** dice.randint(1, 17))}e{dice.randint(-30, 25)}")
        for _ in range(4000)
    ]
    whole = [float(dice.randrange(-(10**n), 10**n)) for n in range(1, 25) for _ in range(50)]
    powers = [10.0**exponent for exponent in range(-323, 309)]
    near = [math.nextafter(power, toward) for power in powers for toward in (0, math.inf)]
    corners = [float(value) for value, _ in PRINTED]
    values = [*bits, *decimals, *whole, *powers, *near, *corners]
    return [value for value in values if math.isfinite(value)]


@needs_node
def test_doubles_are_printed_as_by_node() -> None:
    """Ten thousand doubles, sent as their bits."""
    doubles = random_doubles()
    assert len(doubles) > 10_000
    printed = javascript(
        "line => JSON.stringify(Buffer.from(line, 'hex').readDoubleBE())",
        [struct.pack(">d", double).hex() for double in doubles],
    )
    assert [number_text(double) for double in doubles] == printed


# --- business parameters --------------------------------------------------------------------------


class Side(enum.StrEnum):
    """A member is text."""

    BUY = "buy"


class Shout(str):
    """Text that shows itself differently."""

    __slots__ = ()

    def __str__(self) -> str:
        return self.upper()


class Level(enum.IntEnum):
    """A member is a number."""

    TWO = 2


ENCODED: dict[bytes, Mapping[str, JsonValue]] = {
    b"{}": {},
    b'{"id":"7155ED34-9EC4-4733-8B32-1E4319CB662F"}': {"id": ORDER},
    b'{"external_id":"a/b\x7f"}': {"external_id": "a/b\x7f"},
    b'{"b":1,"a":2}': {"b": 1, "a": 2},
    b'{"a":true,"b":false,"c":null}': {"a": True, "b": False, "c": None},
    b'{"a":[1,"2",[],{}],"b":{"c":{"d":0.5}}}': {
        "a": [1, "2", (), {}],
        "b": {"c": {"d": Decimal("0.50")}},
    },
    b'{"side":"buy","a":"x","level":2}': {"side": Side.BUY, "a": Shout("x"), "level": Level.TWO},
    # Numbers that a double holds, and those that it does not.
    b'{"a":0.1,"b":0,"c":100}': {"a": Decimal("0.10"), "b": Decimal("-0"), "c": Decimal("1E2")},
    b'{"a":0.000001,"b":1e-7}': {"a": Decimal("0.000001"), "b": Decimal("0.0000001")},
    b'{"a":1e+21,"b":100000000000000000000}': {"a": 10**21, "b": 10**20},
    b'{"a":9007199254740992,"b":"9007199254740993"}': {"a": 2**53, "b": 2**53 + 1},
    b'{"a":123456789012345680000,"b":"123456789012345683968"}': {
        "a": 123456789012345680000,
        "b": int(123456789012345680000.0),
    },
    b'{"a":"0.12345678901234567890"}': {"a": Decimal("0.12345678901234567890")},
    b'{"a":"-0.00000000000000000000123456789012345678"}': {
        "a": Decimal("-1.23456789012345678E-21")
    },
    b'{"a":"1234567890123456789000"}': {"a": Decimal("1.234567890123456789E+21")},
    b'{"a":"12345678901234567890123456789012345.5"}': {
        "a": Decimal("12345678901234567890123456789012345.5")
    },
    # Text.
    rb'{"a":"\"\\\b\f\n\r\t\u0000\u001f"}': {"a": '"\\\b\f\n\r\t\0\x1f'},
    '{"ção":"é😀\u2028\u2029\ufeff"}'.encode(): {"ção": "é😀\u2028\u2029\ufeff"},
}


@pytest.mark.parametrize("expected", ENCODED, ids=lambda expected: expected.decode())
def test_business_parameters_are_encoded(expected: bytes) -> None:
    """In the order given, without spaces, every value as JavaScript prints it."""
    assert business_json(ENCODED[expected]) == expected


def test_the_documented_message() -> None:
    """The example of order.create on the vendor's page, byte for byte."""
    business = business_json(
        {
            "pair": "BTC_BRL",
            "side": "buy",
            "type": "limit",
            "amount": Decimal("0.001"),
            "price": Decimal("100000.00"),
        }
    )
    assert b"%d%b" % (NOW, business) == (
        b'1634567890000{"pair":"BTC_BRL","side":"buy","type":"limit","amount":0.001,"price":100000}'
    )


REFUSED: dict[str, Mapping[Any, Any]] = {
    "a parameter must be text, bool, None, int, Decimal or made of these, not float": {"a": 0.5},
    "a parameter must be text, bool, None, int, Decimal or made of these, not set": {"a": [{1}]},
    "a parameter's text must be Unicode, without lone surrogates": {"a": "x\ud800"},
    "a parameter's name must be text that is no number": {"12": "a"},
    "a number must be finite, and within the range of a double": {"a": Decimal("NaN")},
    "a number must be 0 or within the range of a double": {"a": Decimal("1E-999999999")},
    "business parameters have no token, timestamp or signature": {"id": ORDER, "timestamp": 1},
}
ALSO_REFUSED: list[Mapping[Any, Any]] = [
    {"a": b"bytes"},
    {"\udfff": "a"},
    {1: "a"},
    {"a": {"0": 1}},
    {"__proto__": "a"},
    {"a": Decimal("Infinity")},
    {"a": 10**309},
    {"api_token": "a"},
    {"apiToken": "a"},
    {"signature": "a"},
]


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_signed_is_refused(message: str) -> None:
    """Each refusal says why, and shows no value."""
    with pytest.raises(UsageError) as caught:
        business_json(REFUSED[message])
    assert str(caught.value) == message
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("params", ALSO_REFUSED, ids=ascii)
def test_more_that_is_refused(params: Mapping[Any, Any]) -> None:
    """Nothing is signed that a JavaScript server would print differently."""
    with pytest.raises(UsageError):
        business_json(params)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=None) | st.integers())
def test_an_amount_is_exact(value: Decimal | int) -> None:
    """As a number or as text, not a digit is lost; as a number, JavaScript prints the same text."""
    with localcontext(prec=5):  # the caller's precision is no matter
        try:
            printed = json.loads(business_json({"a": value}), parse_float=str, parse_int=str)["a"]
        except UsageError:
            assert abs(Fraction(value)) > 2**1023 or 0 < abs(Fraction(value)) < Fraction(1, 2**1074)
            return
    assert Fraction(printed) == Fraction(value)
    encoded = business_json({"a": value})
    if encoded == f'{{"a":{printed}}}'.encode():
        assert number_text(float(printed)) == printed
    else:
        assert "e" not in printed.lower()


TEXTS = st.text(st.characters(codec="utf-8"))
SCALARS = TEXTS | st.booleans() | st.none() | st.integers(-(2**70), 2**70)
NAMES = TEXTS.filter(lambda name: not name.isdecimal() and name != "__proto__")
AMOUNTS = st.decimals(-(10**25), 10**25, places=None, allow_nan=False).filter(
    lambda amount: not amount or abs(amount) > Decimal("1E-300")
)
VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    SCALARS | AMOUNTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=6,
)
AUTH = {"api_token", "apiToken", "timestamp", "signature"}
PARAMS = st.dictionaries(NAMES.filter(lambda name: name not in AUTH), VALUES, max_size=5)


@given(PARAMS)
def test_names_keep_their_order(params: dict[str, JsonValue]) -> None:
    """It is JSON, with the names in the order given."""
    assert list(json.loads(business_json(params))) == list(params)


@needs_node
def test_text_is_printed_as_by_node() -> None:
    """Every character of the Basic Multilingual Plane, some beyond, and all neighbors of ASCII."""
    plane = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]
    beyond = [chr(code) for code in range(0x10000, 0x110000, 0x3FF)]
    pairs = [chr(one) + chr(other) for one in range(0x30) for other in (0, 0x22, 0x5C, 0x41, 0x7F)]
    texts = [*plane, *beyond, *pairs, "", "\U0010ffff"]
    printed = javascript(
        "line => Buffer.from(JSON.stringify({a: JSON.parse(line)})).toString('hex')",
        [json.dumps(text) for text in texts],
    )
    assert [business_json({"a": text}).hex() for text in texts] == printed


def random_params(dice: random.Random) -> dict[str, JsonValue]:
    """Return parameters of any kind, amounts mostly."""

    def value(depth: int) -> JsonValue:
        amount = Decimal(dice.randrange(10 ** dice.randint(1, 24))).scaleb(dice.randint(-24, 6))
        choices: list[JsonValue] = [amount, -amount, dice.randrange(2**70), True, None, "é\n😀\x7f"]
        if depth:
            choices += [[value(depth - 1)], {"é": value(depth - 1), "10b": 1}]
        return dice.choice(choices)

    names = ["pair", "amount", "price", "external_id", "1e3", "-1", "constructor", "é"]
    return {name: value(2) for name in dice.sample(names, dice.randrange(len(names)))}


@needs_node
@pytest.mark.parametrize("field", ["api_token", "apiToken"])
def test_node_verifies_real_frames(field: str) -> None:
    """Node.js parses a frame, takes the authentication out, prints the rest, and signs it to the same."""
    dice = random.Random(21)
    ours = signer(token_field=field, key="k" * 70)
    everything = [{"id": ORDER}, {}, *ENCODED.values(), *(random_params(dice) for _ in range(2000))]
    frames = [
        ours.frame(f"r-{index}", "order.create", business_json(params), NOW + index)
        for index, params in enumerate(everything)
    ]
    verified = javascript(
        f"""line => {{
            const {{id, method, params}} = JSON.parse(Buffer.from(line, 'hex').toString());
            const {{{field}, timestamp, signature, ...business}} = params;
            const text = String(timestamp) + JSON.stringify(business);
            const mac = require('crypto').createHmac('sha256', '{"k" * 70}').update(text);
            return [id, method, {field}, mac.digest('base64') === signature].join(' ');
        }}""",
        [frame.hex() for frame in frames],
    )
    assert verified == [f"r-{index} order.create {TOKEN} true" for index in range(len(frames))]


# --- signatures -----------------------------------------------------------------------------------


def signature_of(ours: Signer, business: bytes) -> str:
    """Return how a request with these parameters is signed."""
    signature: str = json.loads(ours.frame("r", "m", business, NOW))["params"]["signature"]
    return signature


@pytest.mark.parametrize(
    "key", ["k", "k" * 63, "k" * 64, "k" * 65, "k" * 200], ids=lambda key: f"{len(key)} bytes"
)
def test_the_signature_is_an_hmac(key: str) -> None:
    """Keys shorter than a block of the hash, as long, and longer."""
    business = business_json({"id": ORDER})
    expected = hmac_of(b"%d%b" % (NOW, business), key)
    ours = signer(key=key)
    assert signature_of(ours, business) == expected
    assert signature_of(ours, business) == expected  # the keyed states are not used up


def test_a_known_signature() -> None:
    """One that OpenSSL computed: `printf ... | openssl dgst -sha256 -hmac key-77aa -binary | base64`."""
    business = b'{"id":"7155ED34-9EC4-4733-8B32-1E4319CB662F"}'
    assert signature_of(signer(), business) == "BRRF8DZSkCRO1JI9tbMGkSIUBj6YFjvv/y64x8YO4J0="


def test_a_whole_frame() -> None:
    """The vendor's order of the fields: business first, then token, timestamp, signature."""
    business = business_json({"id": ORDER})
    signature = hmac_of(b"%d%b" % (NOW, business))
    assert (
        signer().frame("req-003", "order.cancel", business, NOW)
        == (
            f'{{"id":"req-003","method":"order.cancel","params":{{"id":"{ORDER}","api_token":"{TOKEN}",'
            f'"timestamp":{NOW},"signature":"{signature}"}}}}'
        ).encode()
    )


def test_a_frame_without_business_parameters() -> None:
    """There is no comma before the first field, and ``{}`` is signed."""
    assert (
        signer(token_field="apiToken").frame("1", "ping", business_json({}), 5)
        == (
            f'{{"id":"1","method":"ping","params":{{"apiToken":"{TOKEN}","timestamp":5,'
            f'"signature":"{hmac_of(b"5{}")}"}}}}'
        ).encode()
    )


VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)


@given(TEXTS, TEXTS, PARAMS, st.integers(0, 10**13), VISIBLE, VISIBLE)
def test_every_frame_verifies(
    request_id: str, order: str, params: dict[str, JsonValue], stamp: int, token: str, key: str
) -> None:
    """Any ids, parameters and credentials: the frame is JSON, in order, and its signature is right."""
    params["external_id"] = order
    business = business_json(params)
    frame = json.loads(
        signer(token=token, key=key).frame(request_id, "order.create", business, stamp)
    )
    assert list(frame) == ["id", "method", "params"]
    assert frame["id"] == request_id
    assert frame["method"] == "order.create"
    assert list(frame["params"]) == [*params, "api_token", "timestamp", "signature"]
    assert frame["params"]["external_id"] == order
    assert frame["params"]["api_token"] == token
    assert frame["params"]["timestamp"] == stamp
    assert frame["params"]["signature"] == hmac_of(str(stamp).encode() + business, key)


def test_a_request_id_that_is_no_unicode_is_refused() -> None:
    """Before anything is signed."""
    with pytest.raises(UsageError, match="lone surrogates"):
        signer().frame("\ud800", "order.cancel", b"{}", NOW)


@pytest.mark.parametrize(
    ("method", "path", "body", "signed"),
    [
        ("GET", "/trade/orders/1", b"", b"1634567890000GET/trade/orders/1"),
        ("GET", "/trade/orders?pair=A_B&x=?", b"", b"1634567890000GET/trade/orders"),
        ("get", "/v4/orders/%3F%20", b"", b"1634567890000GET/v4/orders/%3F%20"),
        (
            "DELETE",
            "/trade/orders",
            '{"id":"é"}'.encode(),
            '1634567890000DELETE/trade/orders{"id":"é"}'.encode(),
        ),
    ],
)
def test_rest_headers(method: str, path: str, body: bytes, signed: bytes) -> None:
    """Signed are timestamp, method, path with its prefix and without the query, and the body."""
    assert signer().rest_headers(method, path, body, NOW) == {
        "Authorization": TOKEN,
        "Timestamp": "1634567890000",
        "Signature": hmac_of(signed),
    }


@pytest.mark.parametrize("field", ["", "token", "API_TOKEN"])
def test_another_token_field_is_refused(field: str) -> None:
    """The vendor's pages know two."""
    with pytest.raises(UsageError, match=r"^token_field must be one of api_token, apiToken$"):
        signer(token_field=field)


# --- secrets --------------------------------------------------------------------------------------


def test_a_signer_shows_nothing() -> None:
    """Neither its repr, its attributes, nor those of its headers show the token or the secret."""
    ours = signer()
    attributes = [repr(getattr(ours, name)) for name in Signer.__slots__]
    headers = ours.rest_headers("GET", "/trade/orders", b"", NOW)
    shown = repr([ours, attributes, headers]) + str(ours) + f"{ours}"
    assert TOKEN not in shown
    assert KEY not in shown
    assert headers["Signature"] not in shown
    assert repr(ours) == "Signer(Secret('***'))"
    assert not hasattr(ours, "__dict__")


@pytest.mark.parametrize("leave", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_signer_stays_in_its_process(leave: Any) -> None:
    """It can be neither pickled nor copied."""
    with pytest.raises(
        TypeError, match=r"^a Signer cannot be pickled or copied into another process$"
    ):
        leave(signer())
