"""A language model behind an endpoint as a judge: of two responses, or of each alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from posttrain.rewards.calls import Rows
from posttrain.rewards.verdicts import Conversation, pair_question, pair_verdict, score_question, score_verdict
from posttrain.runtime.chat_endpoint import BUDGET, ChatEndpoint, Messages, Reply
from posttrain.statistics.intervals import share_interval
from schemas.errors import Refusal
from schemas.estimates import Estimate
from schemas.judge import EndpointJudge
from schemas.ppo import EndpointReward


def _nobody(count: int) -> None:
    """Is told of progress and does nothing."""


class ModelJudge:
    """Asks the endpoint of a recipe, reads the verdicts, and counts those that it did not get.

    Args:
        spec: the judge.
        field: where the recipe names it, for refusals.
        cache: folder of answers that were got before.

    Raises:
        Refusal: as `ChatEndpoint`.
    """

    def __init__(self, spec: EndpointJudge | EndpointReward, field: str, cache: Path | None = None) -> None:
        self.spec, self.field = spec, field
        self.endpoint = ChatEndpoint(spec, field, cache)
        self.counts: Counter[str] = Counter(questions=0, failed=0, unparsable=0, out_of_budget=0)
        """Questions, and those without a verdict by reason."""
        self.consistent: list[float] = []
        """Of each comparison that was answered in both orders, whether both name the same winner."""

    def compare(
        self,
        prompts: Sequence[Conversation],
        ours: Sequence[str],
        theirs: Sequence[str],
        on_pairs: Callable[[int], None] = _nobody,
    ) -> list[float | None]:
        """What `ours` win against `theirs`: the mean over both orders of 1, 0 and 1/2; None where one order has no verdict.

        A judge that contradicts itself by position so gives 1/2. Equal texts tie, and are not asked about.

        Raises:
            Refusal: as `_verdicts`.
        """
        differ = [index for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)) if mine != other]
        questions = [
            pair_question(prompts[index], *texts, self.spec.criteria)
            for index in differ
            for texts in ((ours[index], theirs[index]), (theirs[index], ours[index]))
        ]
        found = self._verdicts(questions, pair_verdict, lambda done: on_pairs(len(ours) - len(differ) + done // 2))
        shares: list[float | None] = [0.5] * len(ours)
        for index, first, second in zip(differ, found[::2], found[1::2], strict=True):
            shares[index] = None if first is None or second is None else (first + 1 - second) / 2
            if first is not None and second is not None:
                self.consistent.append(float(first == 1 - second))
        on_pairs(len(ours))
        return shares

    def __call__(
        self, prompts: Sequence[Conversation], responses: Sequence[str], on_rows: Callable[[int], None] = _nobody,
        rows: Rows | None = None,
    ) -> list[float | None]:  # fmt: skip
        """The score of every response, None where there is no verdict.

        Raises:
            Refusal: as `_verdicts`.
        """
        given = zip(prompts, responses, strict=True)
        questions = [score_question(prompt, response, self.spec.criteria, self.spec.scale) for prompt, response in given]
        scores = self._verdicts(questions, lambda text: score_verdict(text, self.spec.scale), on_rows)
        on_rows(len(scores))
        return scores

    def numbers(self) -> dict[str, Estimate]:
        """Questions, those without a verdict by reason, and how often both orders of a pair name the same winner."""
        found = {f"judge_{name}": Estimate(float(count)) for name, count in self.counts.items()}
        if self.consistent:
            contradictions = len(self.consistent) - sum(self.consistent)
            found["judge_contradictions"] = Estimate(contradictions)
            found["judge_consistency"] = share_interval(self.consistent)
        return found

    def _verdicts(
        self, questions: Sequence[Messages], read: Callable[[str], float | None], on_replies: Callable[[int], None]
    ) -> list[float | None]:
        """A verdict for each question.

        Raises:
            Refusal: when more than `max_failed` of those that were asked have none, or all are beyond the budget.
        """
        replies = self.endpoint.ask(questions, on_replies, keep=lambda text: read(text) is not None)
        found = [None if reply.text is None else read(reply.text) for reply in replies]
        beyond = sum(reply.failure == BUDGET for reply in replies)
        unread = sum(reply.text is not None and verdict is None for reply, verdict in zip(replies, found, strict=True))
        failed = sum(reply.text is None for reply in replies) - beyond
        self.counts.update(questions=len(replies), failed=failed, unparsable=unread, out_of_budget=beyond)
        if failed + unread > self.spec.max_failed * (len(replies) - beyond) or (replies and beyond == len(replies)):
            raise self._refused(replies, found, failed, unread, beyond)
        return found

    def _refused(self, replies: Sequence[Reply], found: Sequence[float | None], failed: int, unread: int, beyond: int) -> Refusal:
        lacking = (reply for reply, verdict in zip(replies, found, strict=True) if verdict is None and reply.failure != BUDGET)
        first = next(((reply.failure or reply.text or "nothing") for reply in lacking), "")
        counted = f"{failed} failed, {unread} had no verdict, {beyond} were beyond max_calls"
        return Refusal(
            where=self.field,
            found=f"of {len(replies)} questions {counted}{f'; the first: {first[:200]!r}' if first else ''}",
            allowed=f"at most {self.spec.max_failed:.0%} of those that are asked (max_failed), and at least one within max_calls",
            remedy="look at the server and run again: verdicts that were read are kept and not asked for again",
        )
