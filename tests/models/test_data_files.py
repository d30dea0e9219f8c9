"""Data from files, and whether they fit a model."""

import io
import os
import tracemalloc
import zipfile

import keras
import numpy as np
import pytest

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.arrays import Stored, piece_of, pieces_in
from batchnorm_mechanics.models.data import Data, load_data
from batchnorm_mechanics.models.data_fit import check_data_fits, range_hint

X = np.arange(40, dtype=np.float32).reshape(10, 4)
Y = np.arange(10) % 3


def model(*, inputs=(4,), classes=3, **options):
    return keras.Sequential(
        [
            keras.layers.Input(inputs, **options),
            keras.layers.Flatten(),
            keras.layers.Dense(classes),
            keras.layers.BatchNormalization(),
        ]
    )


def refusal(call, *arguments, **options):
    with pytest.raises(InputError) as refused:
        call(*arguments, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def all_of(data):
    batches = list(data)
    inputs = np.concatenate([inputs for inputs, _ in batches])
    labels = None if batches[0][1] is None else np.concatenate([y for _, y in batches])
    return inputs, labels, [len(inputs) for inputs, _ in batches]


# --- Reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
def test_an_archive_gives_x_and_its_labels(tmp_path, save):
    save(tmp_path / "data.npz", x=X, y=Y, other=np.zeros(3))
    data = load_data(tmp_path / "data.npz", batch_size=4)
    inputs, labels, sizes = all_of(data)
    np.testing.assert_array_equal(inputs, X)
    np.testing.assert_array_equal(labels, Y)
    assert sizes == [4, 4, 2]
    assert data.rows == 10


def test_labels_go_by_the_name_that_is_given(tmp_path):
    np.savez(tmp_path / "data.npz", x=X, y=Y, truth=Y + 1)
    _, labels, _ = all_of(load_data(tmp_path / "data.npz", labels_name="truth"))
    np.testing.assert_array_equal(labels, Y + 1)
    message = refusal(load_data, tmp_path / "data.npz", labels_name="lables")
    assert "labels='lables'. It holds x, y, truth." in message


def test_arrays_that_are_not_x_are_inputs_by_name(tmp_path):
    np.savez(tmp_path / "data.npz", left=X, right=X[:, :2], y=Y)
    inputs, labels = next(iter(load_data(tmp_path / "data.npz")))
    assert {name: part.shape for name, part in inputs.items()} == {
        "left": (10, 4),
        "right": (10, 2),
    }
    np.testing.assert_array_equal(labels, Y)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("archive", [False, True])
def test_rows_are_right_in_either_order_of_memory(tmp_path, order, archive):
    array = np.asarray(X, order=order)
    if archive:
        np.savez(tmp_path / "a.npz", first=np.zeros(7), x=array)
        stored = Stored([pieces_in(tmp_path / "a.npz")["x"]])
    else:
        np.save(tmp_path / "a.npy", array)
        stored = Stored([piece_of(tmp_path / "a.npy")])
    np.testing.assert_array_equal(stored[3:7], X[3:7])
    np.testing.assert_array_equal(stored[-2:], X[-2:])
    np.testing.assert_array_equal(stored[::3], X[::3])
    assert stored[10:12].shape == (0, 4)


def test_shards_are_one_array_in_the_order_of_their_numbers(tmp_path):
    folder, labels = tmp_path / "x", tmp_path / "y"
    folder.mkdir()
    labels.mkdir()
    for number, rows in {2: slice(0, 3), 9: slice(3, 4), 10: slice(4, 10)}.items():
        np.save(folder / f"part{number}.npy", X[rows])
        np.save(labels / f"part{number}.npy", Y[rows])
    (folder / "notes.txt").write_text("not a shard")
    data = load_data(folder, labels_name=str(labels), batch_size=4)
    inputs, found, sizes = all_of(data)
    np.testing.assert_array_equal(inputs, X)
    np.testing.assert_array_equal(found, Y)
    assert sizes == [4, 4, 2]


def test_labels_of_a_npy_file_are_another_file(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    data = load_data(tmp_path / "x.npy", labels_name=str(tmp_path / "y.npy"))
    np.testing.assert_array_equal(all_of(data)[1], Y)
    message = refusal(load_data, tmp_path / "x.npy", labels_name=str(tmp_path / "z.npy"))
    assert message == (
        "doctor: `labels` must be a .npy file or a folder of .npy files, with numbers. Received: "
        f"labels='{tmp_path / 'z.npy'}'. There is no {tmp_path / 'z.npy'}; check the path."
    )


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_what_is_read_at_a_time_does_not_grow_with_the_file(tmp_path, name):
    x = np.zeros((200_000, 16), np.float32)
    np.save(tmp_path / name, x) if name == "x.npy" else np.savez(tmp_path / name, x=x)
    del x
    data = load_data(tmp_path / name, batch_size=500)
    tracemalloc.start()
    rows = sum(len(inputs) for inputs, _ in data)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == 200_000
    assert most < 2_000_000  # Of 12.8 million bytes.


def test_what_is_no_data_is_refused_with_the_reason(tmp_path):
    np.savez(tmp_path / "good.npz", x=X)
    np.save(tmp_path / "good.npy", X)
    for name in ("good.npz", "good.npy"):
        cut = tmp_path / name.replace("good", "cut")
        cut.write_bytes((tmp_path / name).read_bytes()[:-100])
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "text.npy").write_text("hello there")
    (tmp_path / "table.csv").write_text("1,2")
    with zipfile.ZipFile(tmp_path / "nothing.npz", "w") as archive:
        archive.writestr("readme.txt", "no arrays")
    np.savez(tmp_path / "words.npz", x=np.array(["a", "b"]))
    np.savez(tmp_path / "complex.npz", x=np.ones((3, 4)) * 1j)
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    np.savez_compressed(tmp_path / "objects.npz", x=np.array([{}, []], dtype=object))
    np.save(tmp_path / "single.npy", np.float32(3))
    np.savez(tmp_path / "empty.npz", x=np.zeros((0, 4)))
    np.savez(tmp_path / "unequal.npz", x=X, y=Y[:-1])
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "zero.npz").touch()
    (tmp_path / "zero.npy").touch()
    for name, reason in {
        "pipe.npz": "It is no regular file",
        "pipe.npy": "It is no regular file",
        "zero.npz": "It is empty",
        "zero.npy": "It is empty",
        "nowhere.npz": "There is no ",
        "nowhere.npy": "There is no ",
        "nowhere": "There is no ",
        "cut.npz": "It is no .npz file, or it is damaged or cut off",
        "cut.npy": "it is cut off",
        "text.npz": "It is no .npz file",
        "text.npy": "It cannot be read (ValueError",
        "table.csv": "Its name ends in none of these",
        "nothing.npz": "It holds nothing: name the array of samples 'x'",
        "words.npz": "x has dtype <U1",
        "complex.npz": "x has dtype complex128",
        "objects.npy": "it holds Python objects",
        "objects.npz": "It cannot be read (ValueError: it holds Python objects",
        "single.npy": "is a single number",
        "empty.npz": "whose x has none",
        "unequal.npz": "where x has 10 rows, labels has 9 rows",
        "folder": "holds no .npy file",
    }.items():
        message = refusal(load_data, tmp_path / name, caller="repair")
        assert message.startswith("repair: `data` must ")
        assert reason in message


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (np.zeros((2, 5), np.float32), "a.npy is float32 of shape (10, 4), and b.npy float32"),
        (np.zeros((2, 4)), "b.npy float64 of shape (2, 4)"),
        (np.float32(1), "b.npy float32 of shape ()"),
    ],
)
def test_shards_that_do_not_agree_are_named(tmp_path, second, reason):
    np.save(tmp_path / "a.npy", X)
    np.save(tmp_path / "b.npy", second)
    assert reason in refusal(load_data, tmp_path)


def test_a_damaged_shard_is_named(tmp_path):
    np.save(tmp_path / "a.npy", X)
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    assert "Its file b.npy cannot be read (ValueError: it is cut off)." in refusal(
        load_data, tmp_path
    )


# --- Whether they fit ---------------------------------------------------------------------------


def loaded(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return load_data(tmp_path / "data.npz", batch_size=4)


def fitted(to, tmp_path, **arrays):
    return check_data_fits(to, loaded(tmp_path, **arrays), name="data.npz")


def test_data_that_fit_come_through_unchanged(tmp_path):
    inputs, labels, sizes = all_of(fitted(model(), tmp_path, x=X, y=Y))
    np.testing.assert_array_equal(inputs, X)
    np.testing.assert_array_equal(labels, Y)
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((10, 3, 5, 4), "The axes are in another order: transpose them."),
        ((10, 60), "There are as many numbers: reshape them to (-1, 5, 4, 3)."),
        ((10, 5, 4), "Prepare them as in training."),
        ((10, 5, 4, 1), "Prepare them as in training."),
        ((5, 4, 3), "It looks like one sample: give it an axis of samples, array[None]."),
    ],
)
def test_samples_of_another_shape_are_refused_with_advice(tmp_path, shape, advice):
    data = loaded(tmp_path, x=np.zeros(shape))
    message = refusal(check_data_fits, model(inputs=(5, 4, 3)), data, name="data.npz")
    assert message == (
        "doctor: `data` must hold samples of shape (5, 4, 3), as the model takes them. Received: "
        f"data='data.npz' with samples of shape {shape[1:]}. {advice}"
    )


@pytest.mark.parametrize(("takes", "given"), [((5, 4, 1), (10, 5, 4)), ((5, 4), (10, 5, 4, 1))])
def test_a_last_axis_of_one_may_be_left_out_or_in_as_keras_has_it(tmp_path, takes, given):
    to = model(inputs=takes)
    data = fitted(to, tmp_path, x=np.zeros(given, np.float32))
    inputs, _ = next(iter(data))
    assert to.predict_on_batch(inputs).shape == (4, 3)


def test_open_sizes_take_any(tmp_path):
    to = keras.Sequential(
        [
            keras.layers.Input((None, None, 3)),
            keras.layers.Conv2D(2, 1),
            keras.layers.BatchNormalization(),
        ]
    )
    assert fitted(to, tmp_path, x=np.zeros((2, 9, 7, 3))) is not None
    data = loaded(tmp_path, x=np.zeros((2, 9, 7, 4)))
    assert "shape (any, any, 3)" in refusal(check_data_fits, to, data, name="data.npz")


def test_several_inputs_go_by_their_names(tmp_path):
    left, right = keras.Input((4,), name="left"), keras.Input((2,), name="right")
    joined = keras.layers.Concatenate()([left, right])
    to = keras.Model([left, right], keras.layers.BatchNormalization()(joined))
    inputs, _ = next(iter(fitted(to, tmp_path, left=X, right=X[:, :2])))
    assert to.predict_on_batch(inputs).shape == (4, 6)
    data = loaded(tmp_path, x=X)
    assert "each input of the model: left, right" in refusal(
        check_data_fits, to, data, name="data.npz"
    )
    data = loaded(tmp_path, left=X, right=X)
    assert "samples of shape (2,), " in refusal(check_data_fits, to, data, name="data.npz")


def test_inputs_of_unequal_rows_are_refused(tmp_path):
    np.savez(tmp_path / "data.npz", left=X, right=X[:7])
    message = refusal(load_data, tmp_path / "data.npz")
    assert "left has 10 rows, right has 7 rows" in message


def test_several_arrays_for_one_input_are_refused(tmp_path):
    data = loaded(tmp_path, x_train=X, x_test=X)
    message = refusal(check_data_fits, model(), data, name="data.npz")
    assert "must hold one array of samples, named 'x'" in message
    assert "x_train, x_test" in message


@pytest.mark.parametrize("name", ["images", "arr_0"])
def test_one_array_of_whatever_name_is_the_one_input(tmp_path, name):
    inputs, labels, _ = all_of(fitted(model(), tmp_path, **{name: X, "y": Y}))
    np.testing.assert_array_equal(inputs, X)
    np.testing.assert_array_equal(labels, Y)


def test_one_array_goes_to_a_model_that_takes_a_dict_by_the_name_it_wants(tmp_path):
    taken = {"pixels": keras.Input((4,), name="pixels")}
    to = keras.Model(taken, keras.layers.BatchNormalization()(taken["pixels"]))
    inputs, _ = next(iter(fitted(to, tmp_path, images=X)))
    assert list(inputs) == ["pixels"]
    assert to.predict_on_batch(inputs).shape == (4, 4)


def test_a_batch_size_that_the_model_fixes_is_asked_for(tmp_path):
    to = keras.Sequential(
        [keras.layers.Input(batch_shape=(5, 4)), keras.layers.BatchNormalization()]
    )
    message = refusal(check_data_fits, to, loaded(tmp_path, x=X), name="data.npz")
    assert "`data` must come in batches of 5" in message
    for rows, fits in ((10, True), (9, False)):
        data = Data(X[:rows], None, 5)
        if fits:
            assert len(list(check_data_fits(to, data, name="x"))) == 2
        else:
            assert "with 9 samples and batch_size=5" in refusal(check_data_fits, to, data, name="x")


def test_fractions_are_refused_where_the_model_takes_integers(tmp_path):
    to = keras.Sequential(
        [
            keras.layers.Input((4,), dtype="int32"),
            keras.layers.Embedding(50, 2),
            keras.layers.BatchNormalization(),
        ]
    )
    assert fitted(to, tmp_path, x=X) is not None
    data = loaded(tmp_path, x=X + 0.5)
    assert "must hold integers" in refusal(check_data_fits, to, data, name="data.npz")


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense, self.bn = keras.layers.Dense(2), keras.layers.BatchNormalization()

    def call(self, inputs, training=None):
        return self.bn(self.dense(inputs), training=training)


def test_a_model_that_states_no_shape_is_tried_on_two_samples(tmp_path):
    to = Own()
    to(X[:1])
    assert fitted(to, tmp_path, x=X) is not None
    assert to.bn.moving_mean.numpy().tolist() == [0.0, 0.0]
    data = loaded(tmp_path, x=X[:, :3])
    message = refusal(check_data_fits, to, data, name="data.npz")
    assert "a batch of shapes [(2, 3)] raised InvalidArgumentError: Matrix size-inc" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_is_named_when_it_is_read(tmp_path, value):
    x = X.copy()
    x[6, 2] = value
    batches = iter(fitted(model(), tmp_path, x=x))
    next(batches)
    message = refusal(next, batches)
    assert message == (
        "doctor: `data` must be finite. Received: data='data.npz', whose sample 6 holds "
        f"{value}. Take such samples out."
    )


def test_values_that_the_model_cannot_compute_with_are_out_of_range(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = model()
    finally:
        keras.config.set_dtype_policy("float32")
    x = X.copy()
    x[5, 0] = -70_000
    assert len(list(fitted(model(), tmp_path, x=x))) == 3
    message = refusal(list, fitted(half, tmp_path, x=x))
    assert "`data` must be at most 6.55e+04" in message
    assert "whose sample 5 holds 7e+04" in message
    many = np.full((2, 4), 70_000, np.int32)
    assert "whose sample 0 holds 7e+04" in refusal(list, fitted(half, tmp_path, x=many))
    assert len(list(fitted(half, tmp_path, x=many > 0))) == 1
    wide = X.astype(np.float64)
    wide[1, 1] = 1e39
    assert "at most 3.403e+38" in refusal(list, fitted(model(), tmp_path, x=wide))


@pytest.mark.parametrize("wrong", [3, -1, 0.5])
def test_a_label_that_is_no_class_is_named(tmp_path, wrong):
    y = Y.astype(type(wrong))
    y[7] = wrong
    message = refusal(list, fitted(model(), tmp_path, x=X, y=y))
    assert message == (
        "doctor: `data` must have labels from 0 to 2, the model's classes. Received: "
        f"data='data.npz', whose label 7 is {wrong}. Name the right array with --labels."
    )


def test_labels_may_be_one_hot_or_a_column_and_no_other_shape(tmp_path):
    assert len(list(fitted(model(), tmp_path, x=X, y=np.eye(3)[Y]))) == 3
    assert len(list(fitted(model(), tmp_path, x=X, y=Y[:, None]))) == 3
    data = loaded(tmp_path, x=X, y=np.zeros((10, 5)))
    message = refusal(check_data_fits, model(), data, name="data.npz")
    assert "labels of shape (samples,) or (samples, 3)" in message


def test_any_label_will_do_where_the_output_is_no_choice_of_classes(tmp_path):
    assert len(list(fitted(model(classes=1), tmp_path, x=X, y=Y * 1.5 - 7))) == 3


def test_the_range_is_hinted_at_only_where_nothing_scales_integers(tmp_path):
    images = np.tile(np.arange(0, 250, 25, dtype=np.uint8)[:, None], (1, 4))
    as_bytes = loaded(tmp_path, x=images)
    assert range_hint(model(), as_bytes).startswith(
        "The data are whole numbers from 0 to 75 (uint8), and no layer"
    )
    scaling = keras.Sequential([keras.layers.Rescaling(1 / 255), model()])
    assert range_hint(scaling, as_bytes) is None
    as_floats = loaded(tmp_path, x=images.astype(np.float32))
    assert "from 0 to 75 (float32)" in range_hint(model(), as_floats)
    for fine in (images / 255, images > 100, images // 200):
        assert range_hint(model(), loaded(tmp_path, x=fine)) is None


@pytest.mark.parametrize("shape", [(-5, 2), (5, -2), (2**40, 2**40), (2**62, 4)])
@pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
def test_an_array_that_claims_what_cannot_be_is_refused(tmp_path, shape, kind):
    array = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(array, header)
    array.write(bytes(64))
    path = tmp_path / f"x.{'npy' if kind == 'npy' else 'npz'}"
    if kind == "npy":
        path.write_bytes(array.getvalue())
    else:
        method = zipfile.ZIP_STORED if kind == "npz" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("x.npy", array.getvalue())
    with pytest.raises(InputError, match="`data` must"):
        load_data(path)


def test_a_name_that_no_file_can_have_is_said_to_be_that():
    for name in ("a" * 300 + ".npy", "a" * 300 + ".py:data", "a" * 300 + ":data"):
        assert f"Received: data={name!r}" in refusal(load_data, name)
