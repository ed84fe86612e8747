"""Test that messages from the process of a device arrive complete."""

from __future__ import annotations

import io
import os
import pickle
import signal

import pytest

from panic_tda.devices import worker


def test_progress_steps_are_added_up() -> None:
    sent: list[worker.Message] = []

    class Channel:
        def send(self, message: worker.Message) -> None:
            sent.append(message)

    now = [100.0]
    forwarder = worker.ProgressForwarder(Channel(), clock=lambda: now[0])  # type: ignore[arg-type]
    forwarder.phase("distances", 10.0)
    for _ in range(8):
        now[0] += 0.06
        forwarder.advance(1.0)
    assert sent == [worker.Phase("distances", 10.0), worker.Advanced(4.0), worker.Advanced(4.0)]


class SignalledSink:
    """Stream that receives a signal in the middle of every message."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        half = len(data) // 2
        self.data += data[:half]
        os.kill(os.getpid(), signal.SIGTERM)
        self.data += data[half:]

    def flush(self) -> None: ...


def test_a_message_is_sent_completely_before_a_signal_takes_effect() -> None:
    sink = SignalledSink()
    channel = worker.Channel(sink)  # type: ignore[arg-type]
    previous = signal.signal(signal.SIGTERM, channel.terminate)
    try:
        for word in ("first", "last word"):
            with pytest.raises(SystemExit) as leaving:
                channel.send(worker.Failed(word))
            assert leaving.value.code == 143
    finally:
        signal.signal(signal.SIGTERM, previous)
    stream = io.BytesIO(sink.data)
    assert [pickle.load(stream) for _ in range(2)] == [worker.Failed("first"), worker.Failed("last word")]
