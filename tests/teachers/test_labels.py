from __future__ import annotations

import pytest

from attar.errors import TeacherError
from attar.teachers.labels import order_outputs


def test_same_names_in_the_same_order_need_nothing():
    assert order_outputs(["a", "b"], ["a", "b"]).outputs is None


def test_other_order_is_permuted():
    assert order_outputs(["b", "c", "a"], ["a", "b", "c"]).outputs == (2, 0, 1)


def test_case_spaces_and_underscores_do_not_matter_but_an_exact_name_wins():
    assert order_outputs(["Card Arrival", "lost-card"], ["lost_card", "card_arrival"]).outputs == (1, 0)
    assert order_outputs(["A", "a"], ["a", "A"]).outputs == (1, 0)


def test_the_map_renames_the_teachers_labels():
    found = order_outputs(["POS", "NEG"], ["negative", "positive"], {"POS": "positive", "NEG": "negative"})
    assert found.outputs == (1, 0)


def test_unknown_labels_are_all_listed_with_the_nearest_names():
    with pytest.raises(TeacherError) as caught:
        order_outputs(["card_arrival", "cash"], ["card_arival", "cash", "zzz"])
    message = str(caught.value)
    assert '"card_arival" (nearest: "card_arrival")' in message
    assert '"zzz"' in message
    assert "2 of the data's 3 labels" in message
    assert "teacher.label_map" in message


def test_a_map_from_a_label_that_is_not_there_is_an_error():
    with pytest.raises(TeacherError, match=r'label_map.*"postive" \(nearest: "positive"\)'):
        order_outputs(["positive", "negative"], ["p", "n"], {"postive": "p", "negative": "n"})


def test_generic_names_of_the_right_number_are_taken_in_order_with_a_warning():
    found = order_outputs(["LABEL_0", "LABEL_1"], ["no", "yes"])
    assert found.outputs is None
    assert "no names" in found.warnings[0]


def test_generic_names_of_another_number_are_an_error():
    with pytest.raises(TeacherError, match="does not know 3"):
        order_outputs(["LABEL_0", "LABEL_1"], ["a", "b", "c"])


def test_labels_that_the_task_lacks_are_left_out_with_a_warning():
    found = order_outputs(["a", "b", "c"], ["c", "a"])
    assert found.outputs == (2, 0)
    assert '"b"' in found.warnings[0]


def test_two_labels_cannot_be_one():
    with pytest.raises(TeacherError, match="two of the data's labels"):
        order_outputs(["Card", "x"], ["card", "CARD"])


def test_a_number_needs_no_name():
    assert order_outputs(["LABEL_0"], ["score"]).outputs is None
    assert order_outputs(["LABEL_0"], ["score"]).warnings == ()
