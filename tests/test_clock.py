"""How things are timed beside each other."""

from lib.runs import clock
from lib.runs.task import CPU


def test_jobs_are_timed_in_turns_and_their_first_turn_does_not_count(monkeypatch):
    now, order = [0.0], []
    monkeypatch.setattr(clock, "now", lambda device: now[0])

    def job(name, seconds):
        def work():
            order.append(name)
            now[0] += next(seconds)

        return work

    jobs = [job("a", iter((9.0, 1.0, 2.0, 6.0))), job("b", iter((9.0, 3.0, 4.0, 5.0)))]
    assert clock.in_turns(jobs, 3, CPU) == [2.0, 4.0] and order == list("abababab")
    jobs = [job("a", iter((1.0, 2.0, 6.0))), job("b", iter((3.0, 4.0, 5.0)))]
    order.clear()
    assert clock.in_turns(jobs, 3, CPU, warm=False) == [2.0, 4.0] and order == list("ababab")
