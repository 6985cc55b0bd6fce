"""Batches: what was packed comes back, from the batch itself or from a file on this machine."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.batches import BatchWriter, read_batch


@pytest.fixture(params=["inline", "file"])
def writer(request, tmp_path):
    return BatchWriter(str(tmp_path) if request.param == "file" else None)


@pytest.mark.parametrize("sections", [[], [b""], [b"one"], [b"", b"z" * 1000, b"=z", bytes(range(256))]])
def test_sections_come_back_in_order(writer, sections):
    assert read_batch(writer.write(sections)) == sections


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=2000), max_size=10))
def test_any_bytes_survive_inline(datas):
    writer = BatchWriter(None)
    batches = [writer.write([data]) for data in datas]
    assert [read_batch(batch) for batch in batches] == [[data] for data in datas]


def test_many_batches_share_a_file_and_are_read_in_any_order_while_it_grows(tmp_path):
    writer = BatchWriter(str(tmp_path))
    random = np.random.default_rng(1)
    datas = [random.bytes(int(size)) for size in random.integers(0, 5000, 50)]
    batches = []
    for data in datas:
        batches.append(writer.write([data]))
        assert read_batch(batches[len(batches) // 2]) == [datas[len(batches) // 2]]
    assert [read_batch(batch) for batch in batches[::-1]] == [[data] for data in datas[::-1]]
    assert len(list(tmp_path.iterdir())) == 1
    writer.close()
    assert [read_batch(batch) for batch in batches] == [[data] for data in datas]


def test_only_a_place_travels_where_there_is_a_folder(tmp_path):
    data = np.random.default_rng(2).bytes(1_000_000)
    assert len(BatchWriter(str(tmp_path)).write([data])) < 300
    assert len(BatchWriter(None).write([data])) > 900_000


def test_without_a_folder_no_file_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = BatchWriter(None)
    writer.write([b"data"])
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_made_with_the_first_batch_only(tmp_path):
    writer = BatchWriter(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    writer.close()
    writer.write([b"data"])
    assert len(list(tmp_path.iterdir())) == 1


def test_repetitive_data_is_compressed():
    assert len(BatchWriter(None).write([b"annotation" * 10_000])) < 1000


def test_a_pickled_writer_goes_on_in_a_file_of_its_own(tmp_path):
    writer = BatchWriter(str(tmp_path))
    first = writer.write([b"first"])
    copy = pickle.loads(pickle.dumps(writer))
    second, third = copy.write([b"second"]), writer.write([b"third"])
    assert [read_batch(batch) for batch in (first, second, third)] == [[b"first"], [b"second"], [b"third"]]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_closed_writer_can_write_again(writer):
    before = writer.write([b"before"])
    writer.close()
    writer.close()
    after = writer.write([b"after"])
    assert [read_batch(before), read_batch(after)] == [[b"before"], [b"after"]]


def test_writers_in_several_threads_do_not_mix_their_batches(tmp_path):
    def write_and_read(number):
        writer = BatchWriter(str(tmp_path))
        datas = [bytes([number]) * size for size in range(1, 60)]
        batches = [writer.write([data]) for data in datas]
        writer.close()
        return [read_batch(batch) for batch in batches] == [[data] for data in datas]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(write_and_read, range(20)))


def test_a_write_that_the_system_cuts_short_is_finished(tmp_path, monkeypatch):
    whole_write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: whole_write(file, data[:7]))
    writer = BatchWriter(str(tmp_path))
    data = np.random.default_rng(3).bytes(100)
    batches = [writer.write([data]), writer.write([b"next"])]
    assert [read_batch(batch) for batch in batches] == [[data], [b"next"]]
