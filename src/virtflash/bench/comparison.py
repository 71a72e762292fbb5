"""One or two servers in turn, round after round: A B A B, so that a machine whose speed drifts harms both alike."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from virtflash.bench.measured_server import MeasuredServer
from virtflash.bench.measurement import Measurement, Progress, Settings, measure, median
from virtflash.bench.workload import Workload

# Which run it is, counted from 0; workload, server, share of the run that is done, requests so far.
Notice = Callable[[int, Workload, MeasuredServer, float, int], None]


@dataclass
class Result:
    """All rounds of one workload; `runs[i]` are those of server i, in the order of the rounds."""

    workload: Workload
    runs: list[list[Measurement]] = field(default_factory=list)

    def middle(self, server: int, figure: Callable[[Measurement], float | None]) -> float | None:
        """The median over the rounds."""
        return median([figure(run) for run in self.runs[server]])

    @property
    def ratio(self) -> float | None:
        """Requests per second of the first to those of the second: the median of the rounds' ratios.

        None: in a round nothing succeeded at the second.
        """
        first, second = self.runs
        return median([a.iops / b.iops if b.iops else None for a, b in zip(first, second, strict=True)])

    def wrong(self, server: int) -> int:
        """Requests to it that failed or gave the wrong data, in all rounds."""
        return sum(run.wrong for run in self.runs[server])

    def to_json(self, names: Sequence[str]) -> dict[str, object]:
        answer: dict[str, object] = {"load": self.workload.to_json()}
        answer["servers"] = [
            {
                "server": name,
                "iops_median": self.middle(i, lambda run: run.iops),
                "runs": [run.to_json() for run in runs],
            }
            for i, (name, runs) in enumerate(zip(names, self.runs, strict=True))
        ]
        if len(self.runs) == 2:
            answer["ratio"] = self.ratio
        return answer


def run_rounds(
    servers: Sequence[MeasuredServer],
    workloads: Sequence[Workload],
    settings: Settings,
    rounds: int,
    notice: Notice,
) -> list[Result]:
    """FrontEndError: a server cannot be used; which one, and why."""
    results = []
    run = itertools.count()
    for workload in workloads:
        result = Result(workload, [[] for _ in servers])
        for _ in range(rounds):
            for server, runs in zip(servers, result.runs, strict=True):
                runs.append(_run(server, workload, settings, partial(notice, next(run), workload, server)))
        results.append(result)
    return results


def _run(server: MeasuredServer, workload: Workload, settings: Settings, progress: Progress) -> Measurement:
    with server.connection(workload.queues) as front_end:
        return measure(front_end, workload, settings, progress)
