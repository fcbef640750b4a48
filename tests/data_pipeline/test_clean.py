"""Cleaned captions: by example, and of random strings made of whatever has broken such code."""

import random
import unicodedata

import pytest

from data_pipeline.clean import clean_text

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f"


@pytest.mark.parametrize(
    "dirty, clean",
    [
        ("  a\tred\r\n\u00a0bus\u2003 ", "a red bus"),
        ("salt &amp; pepper &lt;3 &quot;fresh&quot;", 'salt & pepper <3 "fresh"'),
        ("twice &amp;amp;amp; escaped", "twice & escaped"),
        ("&lt;b&gt;bold&lt;/b&gt; <a href='x'>link</a><!-- no -->!", "bold link !"),
        ("1 < 2 > 0 and a <3", "1 < 2 > 0 and a <3"),
        ("see https://a.b/c?d=e&f=g, www.x.org or HTTP://Y now", "see or now"),
        ("bell\x07 null\x00 \ufeffmark soft\u00adhyphen \u202eturned\ufffd \ud800", "bell null mark softhyphen turned"),
        ("cafe\u0301", "caf\u00e9"),
        (FAMILY, FAMILY),
        ("\U0001f3f4\U000e0067\U000e0062\U000e007f", "\U0001f3f4\U000e0067\U000e0062\U000e007f"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("\x00 \t<br>", ""),
    ],
)  # fmt: skip
def test_examples(dirty, clean):
    assert clean_text(dirty) == clean


def test_random_strings_stay_as_they_are_once_clean():
    parts = [
        *("a", "B", "é", "e\u0301", "\u0301", "\u0958", "\u212b", "한", "\u1112", "\u1161", "3", " ", "  ", "\n", "\t"),
        *(
            "&",
            "&amp;",
            "&lt;",
            "&gt;",
            "&#",
            "x3c;",
            "60;",
            "amp;",
            "&nGt;",
            "<",
            ">",
            "</",
            "<a",
            "<!--",
            "-->",
            "b>",
        ),
        *("http", "s", ":", "//", "http://", "www.", "x.y", "\x00", "\x1c", "\x85", "\u200b", "\u200d", "\ufeff"),
        *("\ud83d", "\udc00", "\ufffd", "\ue000", "\u2028", "\U0001f600", '"', "'", ".", "-"),
    ]
    rng = random.Random(0)
    changed = 0
    for _ in range(20_000):
        text = "".join(rng.choices(parts, k=rng.randrange(12)))
        cleaned = clean_text(text)
        changed += cleaned != text
        assert clean_text(cleaned) == cleaned, ascii(text)
        assert cleaned == unicodedata.normalize("NFC", cleaned) == " ".join(cleaned.split())
        assert not {unicodedata.category(c) for c in cleaned} & {"Cc", "Cs", "Co"}
        cleaned.encode()
    assert changed > 10_000
