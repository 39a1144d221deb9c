import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from calibration.errors import InputError
from pipeline import sources
from pipeline.data import Table
from pipeline.images import as_uint8
from pipeline.sources.tables import as_column

FIXTURES = Path(__file__).parent.parent / "fixtures/hugging_face"


def images(folder: Path, **classes: list[int]) -> None:
    for name, shades in classes.items():
        (folder / name).mkdir(parents=True)
        for i, shade in enumerate(shades):
            Image.new("L", (4, 6), shade).save(folder / name / f"{i}.png")


def test_class_folders(tmp_path):
    images(tmp_path / "d", cat=[1, 2], dog=[3])
    (tmp_path / "d/.hidden").mkdir()
    table = sources.read("d", tmp_path)["all"]
    assert table.classes == {"label": ["cat", "dog"]}
    assert table.columns["label"].tolist() == [0, 0, 1]
    assert table.where(2) == "d/dog/0.png"


def test_class_folders_in_split_folders(tmp_path):
    images(tmp_path / "d/train", a=[1], b=[2])
    images(tmp_path / "d/test", b=[3])
    tables = sources.read("d", tmp_path)
    assert {name: len(t) for name, t in tables.items()} == {"train": 2, "test": 1}
    assert tables["test"].classes["label"] == ["b"]


def test_split_folders_have_several_names(tmp_path):
    images(tmp_path / "d/Train", a=[1], b=[2])
    images(tmp_path / "d/Val", a=[4])
    images(tmp_path / "d/TEST", b=[3])
    assert {name: len(t) for name, t in sources.read("d", tmp_path).items()} == {"test": 1, "train": 2, "validation": 1}


def test_split_folders_beside_others_are_refused(tmp_path):
    images(tmp_path / "d/train", a=[1], b=[2])
    images(tmp_path / "d/test", a=[3])
    images(tmp_path / "d", extra=[4])
    with pytest.raises(InputError, match="has test, train, which are splits, beside extra"):
        sources.read("d", tmp_path)
    images(tmp_path / "e/train", a=[1], b=[2])
    images(tmp_path / "e/val", a=[3])
    images(tmp_path / "e/dev", a=[3])
    with pytest.raises(InputError, match="several folders for one split: dev, train, val"):
        sources.read("e", tmp_path)


def test_classes_may_be_called_like_splits(tmp_path):
    images(tmp_path / "d", train=[1], car=[2])
    assert sources.read("d", tmp_path)["all"].classes == {"label": ["car", "train"]}


def test_split_files(tmp_path):
    np.savez(tmp_path / "train.npz", image=np.zeros((3, 2, 2), np.uint8), label=np.array([0, 1, 0]))
    (tmp_path / "test.csv").write_text('text,label\n"a, b",x\n,y\n')
    tables = sources.read(".", tmp_path)
    assert tables["train"].columns["image"].shape == (3, 2, 2)
    assert tables["test"].columns["text"].tolist() == ["a, b", None]


def test_jsonl_keeps_lines_apart_from_samples(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"text": "a\\u2028b", "label": 1}\n\n{"text": "c"}\n')
    table = sources.read("d.jsonl", tmp_path)["all"]
    assert table.columns["text"].tolist() == ["a\u2028b", "c"]
    assert table.columns["label"].tolist() == [1, None]
    assert [table.where(i) for i in range(2)] == ["d.jsonl:1", "d.jsonl:3"]


def test_a_saved_hugging_face_dataset():
    tables = sources.read("text", FIXTURES)
    assert tables["train"].columns["text"].tolist() == ["buy now", "see you at noon", "cheap pills"]
    assert tables["train"].columns["label"].tolist() == [1, 0, 1]
    assert tables["test"].classes == {"label": ["ham", "spam"]}


def test_hugging_face_parquet_with_images():
    table = sources.read("images", FIXTURES)["train"]
    pixels = as_uint8(table, "image", None, None)
    assert pixels.shape == (4, 4, 4, 1)
    assert pixels[:, 0, 0, 0].tolist() == [0, 250, 10, 255]
    assert table.classes == {"label": ["dark", "light"]}


def test_a_function_gives_columns_or_splits(tmp_path):
    (tmp_path / "made.py").write_text(
        "def columns():\n    return {'text': ['a', 'b'], 'label': [0, 1]}\n"
        "def splits():\n    return {'train': columns(), 'test': columns()}\n"
        "def wrong():\n    return [1, 2]\n"
    )
    assert sources.read("made.py:columns", tmp_path)["all"].columns["label"].dtype == np.int64
    assert list(sources.read("made.py:splits", tmp_path)) == ["train", "test"]
    with pytest.raises(InputError, match=r"made\.py:wrong returned list"):
        sources.read("made.py:wrong", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.csv", "text,label\na,b,c\n", r"d\.csv:2: 3 fields, but the header has 2"),
        ("d.csv", "", "is empty"),
        ("d.csv", "text,label\n", "holds no samples"),
        ("d.csv", "a,a\n1,2\n", "two columns have one name"),
        ("d.jsonl", '{"a": 1}\n{"a": \n', r"d\.jsonl:2:"),
        ("d.jsonl", "[1]\n", r"d\.jsonl:1: this is list"),
        ("d.jsonl", '{"a": 1' + "0" * 5000 + "}", r"d\.jsonl:1: this cannot be read"),
        ("d.jsonl", "[" * 100_000, r"d\.jsonl:1: this cannot be read"),
        ("d.txt", "x", "is none of"),
        ("d.npz", "no zip", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        sources.read(name, tmp_path)


def test_a_csv_line_ends_at_a_line_break_alone(tmp_path):
    text = 'text,label\r\na\u2028b\x85\x0c,0\r\n"c\r\nd",1\r\n'
    (tmp_path / "d.csv").write_bytes(text.encode())
    table = sources.read("d.csv", tmp_path)["all"]
    assert table.columns["text"].tolist() == ["a\u2028b\x85\x0c", "c\r\nd"]
    assert table.where(1) == "d.csv:4"


@pytest.mark.parametrize("content", ["{}", "[]", '{"splits": 3}', "{"])
def test_a_hugging_face_folder_without_its_parts_is_refused(tmp_path, content):
    for name in ("dataset_dict.json", "state.json"):
        (folder := tmp_path / name.partition(".")[0]).mkdir()
        (folder / name).write_text(content)
        with pytest.raises(InputError, match=name):
            sources.read(folder.name, tmp_path)


def test_an_array_that_is_no_npz_is_refused(tmp_path):
    np.save(tmp_path / "d.npy", np.zeros(3))
    (tmp_path / "d.npy").rename(tmp_path / "d.npz")
    with pytest.raises(InputError, match=r"d\.npz cannot be read"):
        sources.read("d.npz", tmp_path)


def test_text_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "d.csv").write_bytes("text,label\nok,a\nGrüße,b\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"d\.csv:3: this is not UTF-8"):
        sources.read("d.csv", tmp_path)


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", text=np.array(["a", None], dtype=object))
    with pytest.raises(InputError, match="'text' is pickled"):
        sources.read("d.npz", tmp_path)


def test_columns_of_different_length_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", image=np.zeros((3, 2, 2), np.uint8), label=np.zeros(2, np.int64))
    with pytest.raises(InputError, match=r"differ in length \(image: 3, label: 2\)"):
        sources.read("d.npz", tmp_path)


def test_a_missing_or_empty_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="there is no data at"):
        sources.read("absent", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="nothing that can be read"):
        sources.read("empty", tmp_path)


CELLS = st.one_of(
    st.none(), st.integers(-100, 100), st.text(max_size=3), st.lists(st.integers(), min_size=2, max_size=2)
)


@given(st.lists(CELLS))
def test_a_column_holds_the_values_it_was_given(values):
    assert as_column(values).tolist() == values


def table(cells, folder: Path) -> Table:
    return Table({"image": cells}, "d", lambda i: f"d row {i}", folder, {}, (folder,))


def test_images_are_brought_to_one_size_and_colour(tmp_path):
    Image.new("RGB", (10, 20), (255, 0, 0)).save(tmp_path / "a.png")
    Image.new("L", (30, 10), 100).save(tmp_path / "b.jpg")
    cells = as_column(["a.png", "b.jpg"])
    with pytest.raises(InputError, match="d row 0 is 20 x 10, d row 1 is 10 x 30"):
        as_uint8(table(cells, tmp_path), "image", None, None)
    assert as_uint8(table(cells, tmp_path), "image", (8, 6), None).shape == (2, 8, 6, 3)
    grey = as_uint8(table(cells, tmp_path), "image", (8, 6), 1)
    assert grey.shape == (2, 8, 6, 1)
    assert set(grey[1].ravel()) <= {99, 100, 101}


def test_a_photograph_is_turned_upright(tmp_path):
    image = Image.new("RGB", (10, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert as_uint8(table(as_column(["a.jpg"]), tmp_path), "image", None, None).shape == (1, 10, 20, 3)


def test_arrays_of_images(tmp_path):
    array = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)
    assert (as_uint8(table(array, tmp_path), "image", None, None)[..., 0] == array).all()
    assert as_uint8(table(array, tmp_path), "image", (2, 2), 3).shape == (2, 2, 2, 3)
    lists = as_column(json.loads(json.dumps(array.tolist())))
    assert (as_uint8(table(lists, tmp_path), "image", None, None)[..., 0] == array).all()


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (np.array([[[0.0]], [[np.nan]]]), "d row 1: the image has NaN"),
        (np.array([[[0.5]]]), "images are float64"),
        (np.array([[[300]]]), "images are int64"),
        (np.zeros((2, 3, 5, 5), np.uint8), r"images have the shape \[3, 5, 5\]"),
        (as_column(["absent.png"]), r"there is no file .*absent\.png"),
        (as_column(["broken.png"]), "d row 0: this image cannot be read"),
        (as_column(["../outside.png"]), "in no folder that the recipe names"),
        (as_column([b"nothing"]), "d row 0: this image cannot be read"),
        (np.zeros((2, 0, 5), np.uint8), r"images have the shape \[0, 5, 1\]"),
        (np.zeros((1, 2, 2), complex), "images are complex128, which is no number"),
        (as_column([[["a", "b"]]]), "images are <U1, which is no number"),
        (as_column([[[None, 1]]]), "images are object, which is no number"),
        (as_column(["a\0b.png"]), r"'a\\x00b\.png' is no path"),
        (as_column([[[1, 2], [3]]]), "d row 0: the rows of the image differ in length"),
        (as_column([1.5, "x"]), "d row 0: an image cannot be a float"),
    ],
)
def test_what_is_no_image_is_named(tmp_path, cells, message):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(InputError, match=message):
        as_uint8(table(cells, tmp_path), "image", None, None)
