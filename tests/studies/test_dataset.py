"""Reading, checking and preparing the data of the studies, and the batches made of them."""

import dataclasses
import errno
import hashlib
import io
import os
import random
import re
import subprocess
import sys
import zipfile
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from sklearn.preprocessing import StandardScaler
from sklearn.utils import shuffle

from batchnorm_mechanics.studies import dataset
from batchnorm_mechanics.studies.dataset import Arrays, DataError
from batchnorm_mechanics.studies.registry import Settings

SETTINGS = Settings("keras-layer")
FORM = re.compile(r"reproduce: `data` must .+\. Received: data='.+'\. .+\.", re.DOTALL)
COMPRESSIONS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def with_settings(**changes):
    return dataclasses.replace(SETTINGS, **changes)


@pytest.fixture(scope="module")
def mnist():
    return dataset.load(minimum_rows=60_000)


@pytest.fixture(scope="module")
def arrays(mnist):
    return dataset.prepare(mnist, SETTINGS)


@pytest.fixture(scope="module")
def few(mnist):
    """Return the arrays of a small but good data file."""
    return {
        "x_train": mnist.x_train[:200],
        "y_train": mnist.y_train[:200],
        "x_test": mnist.x_test[:20],
        "y_test": mnist.y_test[:20],
    }


def save(path, arrays, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array, allow_pickle=True)
            archive.writestr(f"{name}.npy", member.getvalue())
    return str(path)


def refusal(source, minimum_rows=1):
    """Load what must not load, check the form of the message, and return it."""
    with pytest.raises(DataError) as caught:
        dataset.load(source, minimum_rows=minimum_rows)
    message = str(caught.value)
    assert FORM.fullmatch(message), message
    assert f"Received: data={source!r}. " in message
    return message


def numbered(rows, pixels=2):
    """Return arrays whose training images say which row they are, and whose labels do too."""
    x = np.repeat(np.arange(rows, dtype=np.float32)[:, None], pixels, axis=1)
    y = np.repeat(np.arange(rows, dtype=np.float32)[:, None], 10, axis=1)
    return Arrays(x, y, x[:10], y[:10], x[:10], y[:10])


def rows_of(batches):
    """Return the rows that the batches of `numbered` data hold, one list a batch."""
    found = []
    for x, y in batches:
        np.testing.assert_array_equal(x[:, 0], y[:, 0])
        found.append(x[:, 0].numpy().astype(int).tolist())
    return found


def epochs_of(epochs, count=1):
    """Return the first epochs' batches of rows, as the numbers in them say."""
    return [
        [batch.tolist() for batch in numbers.numpy()[:steps]]
        for _, _, numbers, steps in epochs.take(count)
    ]


# The shipped file


def test_the_shipped_file_is_mnist(mnist):
    assert mnist.name == "MNIST"
    assert mnist.shipped
    assert mnist.sha256 == hashlib.sha256(dataset.SHIPPED.read_bytes()).hexdigest()
    for name, sha256 in dataset.MNIST_SHA256.items():
        array = getattr(mnist, name)
        assert array.dtype == np.uint8
        assert hashlib.sha256(array.tobytes()).hexdigest() == sha256
    assert mnist.x_train.shape == (60_000, 28, 28)
    assert mnist.x_test.shape == (10_000, 28, 28)


def test_the_labels_are_as_frequent_as_published(mnist):
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(mnist.y_train).tolist() == train
    assert np.bincount(mnist.y_test).tolist() == test


def test_the_readme_of_the_data_names_licence_authors_and_checksums():
    text = (dataset.SHIPPED.parent / "README.md").read_text(encoding="utf-8")
    for word in ("CC BY-SA 3.0", "LeCun", "Cortes", "Burges", dataset.SHIPPED_SHA256):
        assert word in text
    for name, sha256 in dataset.MNIST_SHA256.items():
        assert re.search(rf"`{name}`.*`{sha256}`", text)


def test_a_damaged_installation_is_named_as_such(tmp_path, monkeypatch):
    raw = bytearray(dataset.SHIPPED.read_bytes())
    raw[5_000_000] ^= 1
    path = tmp_path / "mnist.npz"
    path.write_bytes(raw)
    monkeypatch.setattr(dataset, "SHIPPED", path)
    assert refusal("mnist") == (
        f"reproduce: `data` must be undamaged, with SHA-256 {dataset.SHIPPED_SHA256}. "
        "Received: data='mnist'. That of the installed file is "
        f"{hashlib.sha256(raw).hexdigest()}: reinstall batchnorm-mechanics."
    )


def test_an_installation_without_its_data_is_named_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "SHIPPED", tmp_path / "mnist.npz")
    assert "reinstall batchnorm-mechanics" in refusal("mnist")


def test_loading_needs_neither_tensorflow_nor_scikit_learn():
    code = (
        "import sys; from batchnorm_mechanics.studies import dataset; "
        "dataset.load(minimum_rows=1); "
        "print([name for name in ('tensorflow', 'keras', 'sklearn') if name in sys.modules])"
    )
    root = Path(dataset.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


# A user's own file


def test_a_file_of_ones_own_is_taken_as_it_is(tmp_path, few):
    path = save(tmp_path / "mine.npz", few)
    digits = dataset.load(path, minimum_rows=200)
    assert (digits.name, digits.shipped) == ("mine.npz", False)
    assert digits.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    for name, array in few.items():
        np.testing.assert_array_equal(getattr(digits, name), array)


def test_the_same_content_in_another_file_is_mnist_too(tmp_path, mnist):
    content = {name: getattr(mnist, name) for name in dataset.MNIST_SHA256}
    content["y_train"] = content["y_train"].astype(np.int64)
    content["x_test"] = np.asfortranarray(content["x_test"])
    digits = dataset.load(save(tmp_path / "a.npz", content, zipfile.ZIP_STORED), minimum_rows=1)
    assert (digits.name, digits.shipped) == ("MNIST", False)
    assert digits.sha256 != dataset.SHIPPED_SHA256


def test_one_other_pixel_is_no_longer_mnist(tmp_path, mnist):
    content = {name: getattr(mnist, name) for name in dataset.MNIST_SHA256}
    content["x_test"] = content["x_test"].copy()
    content["x_test"][-1, -1, -1] ^= 1
    digits = dataset.load(save(tmp_path / "a.npz", content, zipfile.ZIP_STORED), minimum_rows=1)
    assert digits.name == "a.npz"


@pytest.mark.parametrize("dtype", [np.int8, np.int64, ">u2", np.uint64])
def test_labels_of_any_integer_type_become_uint8(tmp_path, few, dtype):
    path = save(tmp_path / "a.npz", few | {"y_train": few["y_train"].astype(dtype)})
    labels = dataset.load(path, minimum_rows=1).y_train
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, few["y_train"])


def test_further_arrays_in_the_file_do_no_harm(tmp_path, few):
    path = save(tmp_path / "a.npz", few | {"note": np.array(["x"], dtype=object)})
    assert len(dataset.load(path, minimum_rows=1).x_train) == 200


@pytest.mark.parametrize("word", ["MNIST", "fashion", "no/such/file.npz", "minst.npz"])
def test_a_word_that_is_no_file_is_told_what_the_shipped_data_is_called(word):
    assert refusal(word) == (
        "reproduce: `data` must be 'mnist' or the path of an .npz file. "
        f"Received: data={word!r}. There is no such file; "
        "the data that comes with the package is called 'mnist'."
    )


def test_a_folder_is_refused(tmp_path):
    assert refusal(str(tmp_path)).endswith(
        "It cannot be opened: it is a folder, or something else that is not a file."
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.timeout(20)
def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a file" in refusal(str(tmp_path / "pipe"))


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b"])
def test_a_path_that_cannot_be_is_refused(name):
    assert "It cannot be opened: " in refusal(name)


def test_a_file_that_may_not_be_read_is_refused(tmp_path, few, monkeypatch):
    path = save(tmp_path / "a.npz", few)

    def deny(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # Not chmod: a superuser may read everything.
    monkeypatch.setattr(Path, "open", deny)
    assert refusal(path).endswith("It cannot be opened: Permission denied.")


@pytest.mark.parametrize(
    "content", [b"", b"x,y\n1,2\n", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x80\x04K\x01."]
)
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "mnist.npz"
    path.write_bytes(content)
    assert refusal(str(path)) == (
        "reproduce: `data` must be an undamaged .npz file without pickles. "
        f"Received: data={str(path)!r}. "
        "The file cannot be read (BadZipFile: File is not a zip file): get or save it anew."
    )


@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 0.9, 0.999, 0.99999])
def test_mnist_cut_short_is_refused(tmp_path, share):
    raw = dataset.SHIPPED.read_bytes()
    path = tmp_path / "mnist.npz"
    path.write_bytes(raw[: int(len(raw) * share)])
    assert "BadZipFile" in refusal(str(path))


@pytest.mark.parametrize("share", [0.01, 0.3, 0.8])
def test_mnist_with_a_wrong_bit_is_refused(tmp_path, share):
    raw = bytearray(dataset.SHIPPED.read_bytes())
    raw[int(len(raw) * share)] ^= 16
    path = tmp_path / "mnist.npz"
    path.write_bytes(raw)
    assert re.search(r"x_train cannot be read \(\w+: .*\): get or save it anew", refusal(str(path)))


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_damage_anywhere_is_refused_or_without_effect(tmp_path, few, compression):
    raw = Path(save(tmp_path / "good.npz", few, compression)).read_bytes()
    path = tmp_path / "bad.npz"
    generator = random.Random(0)
    heads = [found.start() for found in re.finditer(b"PK", raw)]
    messages = []
    for attempt in range(600):
        bad = bytearray(raw)
        if attempt % 3 == 0:
            del bad[generator.randrange(len(raw)) :]
        elif attempt % 3 == 1:
            bad[generator.randrange(len(raw))] ^= 1 << generator.randrange(8)
        else:
            # The archive's and NumPy's own headers, where the other damage seldom falls.
            at = generator.choice(heads) + generator.randrange(180)
            bad[min(at, len(raw) - 1)] = generator.randrange(256)
        path.write_bytes(bad)
        try:
            digits = dataset.load(str(path), minimum_rows=1)
        except DataError as error:
            messages.append(str(error))
        else:
            for name, array in few.items():
                np.testing.assert_array_equal(getattr(digits, name), array)
    assert len(messages) > 400
    assert [message for message in messages if not FORM.fullmatch(message)] == []


def test_an_array_shorter_than_its_member_is_refused(tmp_path, few):
    # One digit of the shape: NumPy then reads less than there is, and no checksum is compared.
    path = Path(save(tmp_path / "a.npz", few, zipfile.ZIP_STORED))
    path.write_bytes(path.read_bytes().replace(b"(200, 28, 28)", b"(200, 28, 18)"))
    assert "x_train cannot be read (ValueError: it is longer than its array)" in refusal(str(path))


def test_an_array_that_claims_more_than_the_file_has_is_refused_before_it_takes_memory(
    tmp_path, few
):
    path = Path(save(tmp_path / "a.npz", few, zipfile.ZIP_STORED))
    shape, huge = b"(200, 28, 28), }", b"(200000000000, 28000, 28), }"
    raw = path.read_bytes()
    assert raw.count(shape.ljust(len(huge))) == 1
    path.write_bytes(raw.replace(shape.ljust(len(huge)), huge))
    assert "x_train cannot be read (ValueError: it is cut off)" in refusal(str(path))


@pytest.mark.parametrize("name", ["x_train", "y_test"])
def test_pickled_objects_are_refused_and_not_unpickled(tmp_path, few, name):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    path = save(tmp_path / "a.npz", few | {name: np.array([Trap()], dtype=object)})
    message = refusal(path)
    assert "without pickles" in message
    assert f"{name} cannot be read (ValueError: " in message
    assert not (tmp_path / "sprung").exists()


def test_a_member_that_is_no_array_is_refused(tmp_path, few):
    path = save(tmp_path / "a.npz", {name: few[name] for name in few if name != "y_train"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y_train.npy", "five, zero, four")
    assert "y_train cannot be read" in refusal(path)


def test_missing_arrays_are_named_with_those_that_are_there(tmp_path, few):
    names = {"x_train": "x_train", "y_train": "labels", "x_test": "x_test"}
    path = save(tmp_path / "a.npz", {new: few[old] for old, new in names.items()})
    assert refusal(path) == (
        "reproduce: `data` must hold x_train, y_train, x_test, y_test. "
        f"Received: data={path!r}. It lacks y_train, y_test; it has x_train, labels, x_test."
    )


def test_an_archive_of_nothing_says_so(tmp_path):
    message = refusal(save(tmp_path / "a.npz", {}))
    assert message.endswith("It lacks x_train, y_train, x_test, y_test; it has nothing.")


IMAGES = "hold uint8 images of shape (n, height, width), at least one, in "
LABELS = "hold integer labels of shape (n,) in "


@pytest.mark.parametrize(
    ("name", "change", "expectation", "hint"),
    [
        ("x_train", lambda x: x / 255, IMAGES + "x_train", "They are float64 of shape (200, 28,"),
        ("x_test", lambda x: x.astype(int), IMAGES + "x_test", "They are int64 of shape (20, 28"),
        ("x_train", lambda x: x.reshape(200, 784), IMAGES + "x_train", "of shape (200, 784)"),
        ("x_test", lambda x: x[..., None], IMAGES + "x_test", "of shape (20, 28, 28, 1)"),
        ("x_train", lambda x: x[0, 0, 0], IMAGES + "x_train", "of shape ()"),
        ("x_test", lambda x: x[:0], IMAGES + "x_test", "of shape (0, 28, 28)"),
        ("x_train", lambda x: x[:, :0], IMAGES + "x_train", "of shape (200, 0, 28)"),
        ("y_train", lambda y: y / 1, LABELS + "y_train", "They are float64 of shape (200,)"),
        ("y_test", lambda y: y > 4, LABELS + "y_test", "They are bool of shape (20,)"),
        ("y_test", lambda y: y.astype(str), LABELS + "y_test", "They are <U3 of shape (20,)"),
        ("y_train", lambda y: np.eye(10, dtype=int)[y], LABELS + "y_train", "shape (200, 10)"),
        (
            "y_train",
            lambda y: y[:199],
            "hold a label for each image in x_train and y_train",
            "It has 200 images and 199 labels.",
        ),
        (
            "x_test",
            lambda x: x[:7],
            "hold a label for each image in x_test and y_test",
            "It has 7 images and 20 labels.",
        ),
        (
            "x_test",
            lambda x: x[:, 2:-2, 2:-2],
            "hold images of one size in x_train and x_test",
            "Their shapes: (200, 28, 28) and (20, 24, 24).",
        ),
        (
            "y_test",
            lambda y: y.astype(int) + 10 * (np.arange(20) > 17),
            "hold labels from 0 to 9 in y_test",
            "2 of 20 are not, the first is ",
        ),
    ],
)
def test_an_array_that_does_not_fit_is_refused(tmp_path, few, name, change, expectation, hint):
    message = refusal(save(tmp_path / "a.npz", few | {name: np.asarray(change(few[name]))}))
    assert message.startswith(f"reproduce: `data` must {expectation}. Received: ")
    assert hint in message


@pytest.mark.parametrize("label", [-1, 10])
def test_the_label_just_outside_is_refused(tmp_path, few, label):
    labels = few["y_train"].astype(np.int16)
    labels[7] = label
    path = save(tmp_path / "a.npz", few | {"y_train": labels})
    assert refusal(path) == (
        f"reproduce: `data` must hold labels from 0 to 9 in y_train. Received: data={path!r}. "
        f"1 of 200 are not, the first is {label}: correct them."
    )


def test_too_few_rows_are_refused(tmp_path, few):
    path = save(tmp_path / "a.npz", few)
    assert len(dataset.load(path, minimum_rows=200).x_train) == 200
    assert refusal(path, minimum_rows=201) == (
        "reproduce: `data` must hold at least 201 training rows. "
        f"Received: data={path!r}. It has 200: use a larger file, or fewer rows."
    )


# Scaling and splitting


def test_the_scaler_has_the_published_figures(mnist):
    scaler = dataset.fit_scaler(mnist.x_train)
    assert np.sqrt(scaler.mean_.mean()) == pytest.approx(5.772211140440891, rel=1e-9)
    assert np.sqrt(scaler.var_.mean()) == pytest.approx(66.12879201995706, rel=1e-9)


def test_standardized_inputs_have_the_published_range(arrays):
    lowest = min(arrays.x_train.min(), arrays.x_val.min())
    highest = max(arrays.x_train.max(), arrays.x_val.max())
    assert lowest == np.float32(-1.2742078920822268)
    assert highest == np.float32(244.94693302873063)


def test_the_split_is_the_one_that_scikit_learn_makes(mnist, arrays):
    flat = mnist.x_train.reshape(60_000, 784)
    scaler = StandardScaler().fit(flat)
    x, y = shuffle(flat, mnist.y_train, random_state=100)
    assert arrays.x_val.shape == (5000, 784)
    assert arrays.x_train.shape == (55_000, 784)
    np.testing.assert_array_equal(arrays.y_val.argmax(1), y[:5000])
    np.testing.assert_array_equal(arrays.y_train.argmax(1), y[5000:])
    # Fitted in blocks: the same up to the last digits of float64, and so nearly always in float32.
    np.testing.assert_allclose(arrays.x_val, scaler.transform(x[:5000]), rtol=1e-6)
    np.testing.assert_allclose(arrays.x_train[-999:], scaler.transform(x[-999:]), rtol=1e-6)
    test = scaler.transform(mnist.x_test.reshape(10_000, 784))
    np.testing.assert_allclose(arrays.x_test, test, rtol=1e-6)
    np.testing.assert_array_equal(arrays.y_test.argmax(1), mnist.y_test)


def test_all_arrays_are_float32_and_labels_one_hot(arrays):
    for field in dataclasses.fields(arrays):
        array = getattr(arrays, field.name)
        assert array.dtype == np.float32
        if field.name.startswith("y"):
            assert array.shape[1:] == (10,)
            assert set(np.unique(array)) == {0, 1}
            assert (array.sum(1) == 1).all()


def test_another_split_seed_gives_another_split(mnist):
    first, second = (
        dataset.prepare(mnist, with_settings(rows=600, split_seed=seed)) for seed in (100, 101)
    )
    assert (first.y_val != second.y_val).any()
    np.testing.assert_array_equal(first.x_test, second.x_test)


def test_binary_inputs_are_white_from_128_on(mnist):
    arrays = dataset.prepare(mnist, with_settings(inputs="binary", rows=6000))
    pixels = mnist.x_train[:6000].reshape(6000, 784)
    order = shuffle(np.arange(6000), random_state=100)
    assert {127, 128} <= set(np.unique(pixels))
    np.testing.assert_array_equal(arrays.x_val, (pixels[order[:500]] > 127).astype(np.float32))
    np.testing.assert_array_equal(arrays.x_train, (pixels[order[500:]] > 127).astype(np.float32))
    test = mnist.x_test[:1000].reshape(1000, 784) > 127
    np.testing.assert_array_equal(arrays.x_test, test.astype(np.float32))


def test_fewer_rows_are_the_first_ones_and_scale_themselves(mnist):
    arrays = dataset.prepare(mnist, with_settings(rows=2400))
    assert [len(x) for x in (arrays.x_train, arrays.x_val, arrays.x_test)] == [2200, 200, 400]
    flat = mnist.x_train[:2400].reshape(2400, 784)
    scaler = StandardScaler().fit(flat)
    both = np.concatenate([arrays.x_val, arrays.x_train])
    expected = scaler.transform(shuffle(flat, random_state=100))
    np.testing.assert_allclose(both, expected, rtol=1e-6, atol=1e-6)
    expected = scaler.transform(mnist.x_test[:400].reshape(400, 784))
    np.testing.assert_allclose(arrays.x_test, expected, rtol=1e-6, atol=1e-6)


def test_a_test_row_is_left_however_few_rows(mnist):
    settings = with_settings(rows=5, batch_size=2, validation_fraction=0.4)
    assert len(dataset.prepare(mnist, settings).x_test) == 1


def test_more_rows_than_there_are_means_all(tmp_path, few):
    digits = dataset.load(save(tmp_path / "a.npz", few), minimum_rows=1)
    arrays = dataset.prepare(digits, with_settings(rows=6000))
    assert len(arrays.x_train) + len(arrays.x_val) == len(digits.x_train)


def test_too_few_rows_to_train_and_validate_are_refused(mnist):
    assert len(dataset.prepare(mnist, with_settings(rows=65)).x_train) == 60
    with pytest.raises(DataError) as error:
        dataset.prepare(mnist, with_settings(rows=64))
    assert str(error.value) == (
        "prepare: `digits` must have 65 training rows or more, to validate on one and to train on "
        "a batch of 60. Received: 64 rows of MNIST. Use more of them."
    )


def test_the_rows_needed_are_the_fewest_that_can_be_prepared(mnist):
    for changes in ({}, {"batch_size": 7}, {"validation_fraction": 0.004, "batch_size": 2}):
        settings = with_settings(**changes)
        rows = dataset.rows_needed(settings)
        arrays = dataset.prepare(mnist, dataclasses.replace(settings, rows=rows))
        assert len(arrays.x_val) >= 1
        assert len(arrays.x_train) >= settings.batch_size
        with pytest.raises(DataError):
            dataset.prepare(mnist, dataclasses.replace(settings, rows=rows - 1))


# Batches


@pytest.mark.parametrize(
    ("rows", "changes", "steps"),
    [
        (55_000, {}, 916),
        (55_000, {"steps_per_epoch": 100}, 100),
        (55_000, {"steps_per_epoch": 1000}, 916),
        (55_000, {"steps_per_epoch": 1000, "stream": "continue"}, 1000),
        (55_000, {"stream": "continue"}, 916),
        (119, {}, 1),
    ],
)
def test_an_epoch_has_as_many_steps_as_its_batches(rows, changes, steps):
    settings = with_settings(**changes)
    assert dataset.steps_in_epoch(rows, settings) == steps
    [epoch] = epochs_of(dataset.training_epochs(numbered(rows), settings, seed=1))
    assert len(epoch) == steps


def test_an_epoch_that_restarts_is_one_pass_and_one_that_continues_has_no_end():
    for stream, count in (("restart", 1), ("continue", tf.data.INFINITE_CARDINALITY)):
        settings = with_settings(steps_per_epoch=3, stream=stream)
        epochs = dataset.training_epochs(numbered(600), settings, seed=1)
        assert int(epochs.cardinality()) == count


def test_epochs_of_fewer_steps_have_the_shape_of_whole_ones():
    for steps in (None, 3):
        settings = with_settings(steps_per_epoch=steps)
        [(_, _, numbers, _)] = dataset.training_epochs(numbered(600), settings, seed=1)
        assert numbers.shape == (10, 60)


def test_an_epoch_of_mnist_is_916_batches_with_no_row_twice():
    [batches] = epochs_of(dataset.training_epochs(numbered(55_000), SETTINGS, seed=1))
    assert [len(batch) for batch in batches] == [60] * 916
    seen = np.concatenate(batches)
    assert len(set(seen)) == 916 * 60
    assert 0 <= seen.min() < seen.max() < 55_000
    assert abs(np.corrcoef(seen, np.arange(len(seen)))[0, 1]) < 0.05


def test_the_batches_are_those_of_the_published_pipeline():
    # With a buffer of 60,000 for 55,000 rows, as published.
    arrays = numbered(5500)
    published = (
        tf.data.Dataset.from_tensor_slices((arrays.x_train, arrays.y_train))
        .shuffle(6000, seed=100, reshuffle_each_iteration=True)
        .batch(60, drop_remainder=True)
    )
    ours = dataset.training_epochs(arrays, SETTINGS, seed=100)
    for _ in range(2):
        assert epochs_of(ours) == [rows_of(published)]


def test_an_epoch_has_the_images_and_labels_that_its_numbers_stand_for(arrays):
    first = Arrays(**{name: array[:500] for name, array in vars(arrays).items()})
    [(images, labels, numbers, steps)] = dataset.training_epochs(first, SETTINGS, seed=3)
    np.testing.assert_array_equal(images, first.x_train)
    np.testing.assert_array_equal(labels, first.y_train)
    assert (numbers.shape, int(steps)) == ((8, 60), 8)


def test_each_epoch_is_shuffled_anew():
    epochs = dataset.training_epochs(numbered(600), SETTINGS, seed=1)
    [first], [second] = epochs_of(epochs), epochs_of(epochs)
    assert first != second
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(600))


def test_the_same_seed_gives_the_same_epochs_and_another_seed_others():
    def epochs(seed):
        found = dataset.training_epochs(numbered(600), SETTINGS, seed)
        return [epochs_of(found), epochs_of(found)]

    assert epochs(1) == epochs(1)
    assert epochs(1)[0] != epochs(2)[0]


def test_a_restarted_epoch_does_not_go_on_where_the_last_one_ended():
    found = dataset.training_epochs(numbered(600), with_settings(steps_per_epoch=3), seed=1)
    epochs = [epoch for _ in range(4) for epoch in epochs_of(found)]
    assert [len(epoch) for epoch in epochs] == [3] * 4
    # Going on, the first three epochs would hold 540 different rows.
    assert len(set(chain(*chain(*epochs[:3])))) < 500
    # And yet they draw from all of the data.
    assert max(chain(*chain(*epochs))) > 500


def test_a_continued_stream_goes_through_all_rows_before_it_repeats():
    settings = with_settings(steps_per_epoch=4, stream="continue")
    epochs = epochs_of(dataset.training_epochs(numbered(630), settings, seed=1), 5)
    batches = list(chain(*epochs))
    for single_pass in (batches[:10], batches[10:]):
        assert [len(batch) for batch in single_pass] == [60] * 10
        assert len(set(chain(*single_pass))) == 600
    assert batches[:10] != batches[10:]


@pytest.mark.parametrize(("batches", "rows"), [(0, 0), (1, 60), (2, 120), (50, 130), (None, 130)])
def test_evaluation_takes_as_many_batches_as_asked_for_in_their_order(batches, rows):
    arrays = numbered(130)
    [(x, y)] = dataset.evaluation_rows(arrays.x_train, arrays.y_train, SETTINGS, batches=batches)
    np.testing.assert_array_equal(x, arrays.x_train[:rows])
    np.testing.assert_array_equal(y, arrays.y_train[:rows])
