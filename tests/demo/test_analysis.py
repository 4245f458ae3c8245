from __future__ import annotations

import pytest

from gateway.demo.analysis import Column, Term, UnreadableError, analyze_csv, analyze_text


def test_text_is_counted_by_bytes_lines_words_and_terms() -> None:
    found = analyze_text("Der Fluß fließt.\nThe river's flow: the RIVER's flow!\n".encode())

    assert (found.kind, found.bytes, found.lines, found.words) == ("text", 55, 2, 9)
    assert found.top_terms[:3] == (Term("flow", 2), Term("river's", 2), Term("the", 2))


def test_terms_are_ranked_and_few() -> None:
    found = analyze_text(" ".join(f"word{n:02} " * n for n in range(1, 21)).encode())

    assert [term.count for term in found.top_terms] == list(range(20, 10, -1))


def test_table_is_summed_up_by_column() -> None:
    found = analyze_csv(b'\xef\xbb\xbfname, price,qty\r\nant,1.5,1\r\n"bee, big",2.5,\r\ncat,,x\r\ndog\r\n')

    assert (found.kind, found.rows) == ("csv", 4)
    assert found.columns == (
        Column("name", 4, 0, 4, None, None, None),
        Column("price", 2, 2, 2, 1.5, 2.5, 2.0),
        Column("qty", 2, 2, 2, None, None, None),
    )


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_found_in_the_heading(delimiter: str) -> None:
    found = analyze_csv(f"a{delimiter}b\n1{delimiter}2\n".encode())

    assert [(column.name, column.mean) for column in found.columns] == [("a", 1.0), ("b", 2.0)]


def test_numbers_of_any_size_have_a_mean() -> None:
    found = analyze_csv(b"huge,infinite,word\n1e308,1e999,nan\n1.5e308,1,inf\n")

    assert found.columns[0].mean == 1.25e308
    assert [column.mean for column in found.columns[1:]] == [None, None]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\n\n", b'a,b\n"open', b'a\n"b"c\n'])
def test_malformed_table_is_unreadable(content: bytes) -> None:
    with pytest.raises(UnreadableError):
        analyze_csv(content)
