"""The reward model on held-out pairs: whether its confidence can be believed, and whether it pays for length."""

from __future__ import annotations

from matplotlib.axes import Axes

from posttrain.report.read import Json
from posttrain.report.svg import ACCENT, HEIGHT, INK, MUTED, WIDTH, Chart, chart
from posttrain.report.text import number


def charts(document: Json) -> list[Chart]:
    """Figures of a stage's `reward.json`; none without one."""
    if not document:
        return []
    return [_reliability(document["reliability"], document["held_out_calibration_error"], "reward"), _length(document)]


def calibration(evaluation: Json) -> list[Chart]:
    """The same curve of the candidate's implicit rewards; none where no pairs were scored, or an older version evaluated."""
    points = evaluation.get("reliability") or []
    error = next((each["value"] for each in evaluation.get("metrics", []) if each["name"] == "calibration_error"), None)
    return [_reliability(points, error, "evaluation")] if points and error is not None else []


def _reliability(points: list[Json], error: float, group: str) -> Chart:
    most = max(point["pairs"] for point in points)

    def draw(axes: Axes) -> None:
        axes.plot([0.5, 1], [0.5, 1], color=INK, linestyle="--", linewidth=1)
        for point in points:
            size = 4 + 10 * (point["pairs"] / most) ** 0.5
            axes.plot([point["confidence"]], [point["accuracy"]], "o", color=ACCENT, markersize=size, alpha=0.75)
        axes.set(xlim=(0.48, 1.02), ylim=(-0.05, 1.05))
        axes.set(xlabel="confidence in the preferred response", ylabel="share of pairs right")

    note = (
        "Held-out pairs by confidence, larger points are more pairs; on the dashed line confidence is what it says. Expected "
        f"calibration error: {number(round(error, 3))}."
    )
    return chart("Calibration", note, draw, (WIDTH, HEIGHT), group=group)


def _length(document: Json) -> Chart:
    responses = document["responses"]

    def draw(axes: Axes) -> None:
        lengths, rewards = [r["tokens"] for r in responses], [r["reward"] for r in responses]
        axes.plot(lengths, rewards, "o", color=ACCENT, markersize=4, alpha=0.5, markeredgewidth=0)
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.set(xlabel="tokens in the response", ylabel="reward, logits")

    note = f"Correlation of length and reward: {_rounded(document, 'length_correlation')}."
    return chart("Length against reward", note, draw, (WIDTH, HEIGHT), group="reward")


def _rounded(document: Json, name: str) -> str:
    return number(round(document[f"held_out_{name}"], 3))
