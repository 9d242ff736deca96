"""Tables as a reader sees them: names, digits, sides, empty cells."""

import re

import numpy as np
import pandas as pd

from lib import notebook
from lib.results import legible
from lib.results.statistics import Interval


def rows(page: str) -> list[list[str]]:
    """The text of every cell, line by line."""
    found = re.findall(r"<tr>(.*?)</tr>", page, re.S)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in found]


def test_names_of_the_code_become_words_and_numbers_have_about_four_digits():
    frame = pd.DataFrame(
        {
            "variant": ["a", "b"],
            "test_ppl": [10.044123, 1629.2533],
            "train_chars": [20_000.0, 100_000.0],
            "some_new_column": [0.5, np.nan],
        }
    ).set_index("variant")
    assert rows(legible.page(frame)) == [
        ["variant", "test PPL", "training characters", "some new column"],
        ["a", "10.04", "20,000", "0.5"],
        ["b", "1,629", "100,000", ""],
    ]


def test_numbers_of_a_column_have_equally_many_places_where_digits_allow_it():
    frame = pd.DataFrame({"ppl": [9.7, 9.691, 22.2404, 0.0, np.nan]})
    assert legible.legible(frame)["PPL"].tolist() == ["9.70", "9.69", "22.24", "0.00", ""]
    frame = pd.DataFrame({"speedup": [1.251, 0.89874], "ppl": [7.1104, 1400.2], "x": [0.004, 9.5]})
    found = legible.legible(frame)
    assert found["times faster, measured"].tolist() == ["1.251", "0.899"]
    assert found["PPL"].tolist() == ["7.11", "1,400"]
    assert found["x"].tolist() == ["0.004", "9.500"]


def test_what_names_a_row_or_a_column_is_never_nan():
    frame = pd.DataFrame(
        {
            "method": ["full", "propagate", "propagate"],
            "threshold": [np.nan, 0.5, 0.8],
            "speedup": [1.0, 1.3, 1.2],
        }
    ).set_index(["method", "threshold"])
    assert rows(legible.page(frame))[1:] == [
        ["full", "", "1.0"],
        ["propagate", "0.5", "1.3"],
        ["", "0.8", "1.2"],  # the name above is not repeated
    ]


def test_a_name_above_several_columns_is_written_once():
    columns = pd.MultiIndex.from_product([["loss", "norm"], ["easy", "hard"]])
    frame = pd.DataFrame([[1, 2, 3, 4]], columns=columns, index=pd.Index([1], name="layer"))
    assert rows(legible.page(frame)) == [
        ["", "loss", "", "size of the change", ""],
        ["layer", "easy", "hard", "easy", "hard"],
        ["1", "1", "2", "3", "4"],
    ]


def test_numbers_stand_to_the_right_prose_to_the_left_and_nothing_is_markup():
    frame = pd.DataFrame(
        {
            "verdict": ["✔ replicated", "? undecided"],
            "ours": ["-4.9 [-6.1, -3.7] %", ""],
            "line": ["< 0", "> 0.5"],
            "said": ["a < b", "two\nlines"],
        }
    )
    page = legible.page(frame.set_index("verdict"))
    assert '<th align="left">✔ replicated</th><td align="right">-4.9' in page
    assert '<td align="left">two<br>lines</td>' in page and "a &lt; b" in page
    assert '<td align="right">&lt; 0</td>' in page


def test_an_interval_without_width_is_one_number_and_zero_has_no_sign():
    assert str(Interval(60.0, 60.0, 60.0, 3)) == "60"
    assert str(Interval(7.3366, 7.33660001, 7.33660002, 3)) == "7.337"
    assert str(Interval(-0.0367, -0.8976, 0.8315, 5)) == "0.0 [-0.9, 0.8]"
    assert str(Interval(0.7165, -0.09662, 1.53, 5)) == "0.7 [-0.1, 1.5]"


def test_a_table_without_rows_or_columns_is_a_page_all_the_same():
    assert rows(legible.page(pd.DataFrame())) == [[""]]
    assert rows(legible.page(pd.DataFrame(columns=["rate", "test_ppl"]).set_index("rate"))) == [
        ["share routed", "test PPL"]
    ]
    names = pd.DataFrame(index=pd.Index(["a", "b"], name="variant"))
    assert rows(legible.page(names)) == [["variant"], ["a"], ["b"]]


def test_a_notebook_says_so_where_a_table_has_no_rows(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(notebook, "display", shown.append)
    notebook.show(pd.DataFrame(columns=["test_ppl"]))
    assert shown == [] and capsys.readouterr().out.startswith("no table here")
    notebook.show(pd.DataFrame({"test_ppl": [1.5]}))
    assert len(shown) == 1 and capsys.readouterr().out == ""
