"""Traffic is read from what others and the gateway write, and made from a seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostler.simulate.trace import Arrival, read_trace, sinusoid, sparse, step
from hostler.spec.errors import InvalidRequest


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_an_azure_trace_begins_at_its_first_request(tmp_path: Path) -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:18:04.4799600,34,8"
    )
    trace = read_trace(_written(tmp_path / "code.csv", text))
    assert trace.name == "code"
    assert trace.arrivals == (Arrival(0, 4808, 10), Arrival(60.5, 34, 8))
    assert trace.duration_s == 60.5


def test_a_mooncake_trace_is_in_milliseconds(tmp_path: Path) -> None:
    text = (
        '{"timestamp": 3000, "input_length": 7, "output_length": 6, "hash_ids": [0]}\n'
        '{"timestamp": 1000, "input_length": 5, "output_length": 2}\n'
    )
    trace = read_trace(_written(tmp_path / "m.jsonl", text))
    assert trace.arrivals == (Arrival(0, 5, 2), Arrival(2, 7, 6))


def test_a_line_of_the_access_log_came_as_long_before_its_end_as_it_took(tmp_path: Path) -> None:
    line = (
        '{"time":"2026-01-01T00:00:%s","request_id":"r","client":"::1","method":"POST","path":"/","status":200,'
        '"outcome":"%s","seconds":%s,"sent_bytes":1,"key":"k","project":"p","endpoint":"%s","ttft_s":0.1,'
        '"prompt_tokens":11,"completion_tokens":12}\n'
    )
    text = line % ("30.000001Z", "completed", "20.000001", "e") + line % ("31Z", "completed", "1", "e")
    text += line % ("32Z", "refused", "0", "e") + line % ("33Z", "completed", "0", "")
    trace = read_trace(_written(tmp_path / "log", text))
    assert [a.at for a in trace.arrivals] == pytest.approx([0, 20])
    assert trace.arrivals[0][1:] == (11, 12)


@pytest.mark.parametrize("text", ["what\n", '{"a": 1}\n', "", "TIMESTAMP,x\n1,2\n", "[1]\n"])
def test_what_is_no_trace_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidRequest, match="trace"):
        read_trace(_written(tmp_path / "t", text))
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_trace(tmp_path / "missing")


def test_made_traffic_comes_from_its_seed() -> None:
    assert step(seed=1) == step(seed=1)
    assert step(seed=1) != step(seed=2)
    assert len(step().arrivals) == pytest.approx(12_000, rel=0.05)
    assert len(sparse(seed=5).arrivals) == 374
    assert sparse(seed=5).arrivals[-1].at < 8 * 3600
    assert len(sinusoid().arrivals) == pytest.approx(5 * 4 * 3600, rel=0.05)


def test_a_trace_is_cut_warped_and_scaled() -> None:
    trace = step(rate=5)
    half = trace.part(900, 1800)
    assert half.duration_s == 900
    assert len(half.arrivals) == pytest.approx(1500, rel=0.15)
    assert half.arrivals[0].at < 5
    fast = trace.warped(2)
    assert fast.duration_s == 900
    assert fast.arrivals[-1].at == pytest.approx(trace.arrivals[-1].at / 2)
    assert len(trace.scaled(2.5).arrivals) == pytest.approx(2.5 * len(trace.arrivals), rel=0.05)
    assert len(trace.scaled(0.5).arrivals) == pytest.approx(0.5 * len(trace.arrivals), rel=0.1)
