"""Columns of Ray's become inputs and labels as arrays of a file do; Ray is not needed for that."""

import numpy as np
import pytest

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.models.data import as_data
from batchnorm_mechanics.models.ray_data import is_ray_dataset, of_columns


def test_x_and_y_are_inputs_and_labels_whatever_else_there_is():
    inputs, labels = of_columns({"id": np.arange(2), "x": np.ones((2, 3)), "y": np.array([0, 1])})
    assert (inputs.shape, labels.tolist()) == ((2, 3), [0, 1])


def test_one_column_is_the_input_and_several_go_by_name():
    assert of_columns({"data": np.ones((2, 3))})[0].shape == (2, 3)
    inputs, labels = of_columns({"a": np.zeros(1), "b": np.ones(1), "y": np.ones(1)})
    assert (list(inputs), labels.tolist()) == (["a", "b"], [1.0])


def test_lists_in_a_table_s_rows_are_rows():
    lists = np.empty(2, object)
    lists[:] = [np.array([1.0, 2.0]), [3.0, 4.0]]
    assert of_columns({"x": lists})[0].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    lists[1] = [3.0]
    with pytest.raises(InputError, match=r"the column x of a Ray Dataset: .*\. Pad them\.$"):
        of_columns({"x": lists})


def test_nothing_is_taken_for_a_dataset_of_ray_without_ray():
    assert not is_ray_dataset(as_data(np.ones((2, 1)), caller="recalibrate"))
