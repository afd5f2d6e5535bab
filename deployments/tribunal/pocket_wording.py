"""The few sentences that the embedded models know: they answer from a passage, and mend a draft of one statement.

The words are those of their training (deployments/pocket/tasks.py). They review by mending: a reviewer is shown the
draft, tells what the passage says instead, and a draft that it would not change has its vote.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from deployments.pocket import NOT_SUPPORTED, SUPPORTED
from deployments.tribunal.config import Member
from deployments.tribunal.wording import Critique, Messages, Prompt, Scores, Unparsed, as_member, said

DRAFT = "Draft: "
AGREES = "agrees"
VERDICT = {"structured_outputs": {"regex": rf"[^\n]{{1,200}} ({re.escape(SUPPORTED)}|{re.escape(NOT_SUPPORTED)})"}}
"""vLLM's schema of a verdict."""


class PocketWording:
    """Reviews are apart: one statement of one draft at a time is all that models of this size read."""

    answers_as_said = False

    def draft(self, question: Messages, member: Member) -> Prompt[str]:
        return Prompt(as_member(question, member), said)

    def given(self, question: Messages) -> str | None:
        _, last = _parts(question)
        return last.removeprefix(DRAFT) if last.startswith(DRAFT) else None

    def claims(self, draft: str) -> tuple[str, ...]:
        return tuple(re.split(r"(?<=\.)\s+(?=The )", statements(draft)))

    def critique(self, question: Messages, claim: str, critic: Member) -> Prompt[Critique]:
        return self._mend(question, claim, critic).then(
            lambda mended: Critique(self.same(mended) == self.same(claim), mended, mended)
        )

    def revise(
        self, question: Messages, draft: str, critiques: Sequence[Sequence[Critique]], author: Member
    ) -> Prompt[str] | str:
        """Every statement as most critics tell it; as it was, if they do not agree."""
        claims = zip(self.claims(draft), critiques, strict=True)
        return " ".join(self._told_by_most(claim, of_claim) for claim, of_claim in claims)

    def review(
        self, question: Messages, drafts: Mapping[str, str], rubric: Mapping[str, float], reviewer: Member
    ) -> Prompt[dict[str, Scores]]:
        ((label, text),) = drafts.items()
        return self._mend(question, text, reviewer).then(
            lambda mended: {label: {AGREES: float(self.same(mended) == self.same(text))}}
        )

    def reconsider(self, question: Messages, own: str, others: Sequence[str], member: Member) -> Prompt[str]:
        """Mend what most of the others say, where it is not what the member says itself."""
        different = [text for text in others if self.same(text) != self.same(own)]
        counted = Counter(map(self.same, different)).most_common(1)
        shown = next((text for text in different if self.same(text) == counted[0][0]), own)
        return self._mend(question, shown, member)

    def synthesise(self, question: Messages, drafts: Sequence[tuple[str, str]], chair: Member) -> Prompt[str]:
        return self._mend(question, drafts[0][1], chair)

    def same(self, text: str) -> str:
        return " ".join(statements(text).lower().split())

    def final(self, question: Messages, answer: str) -> str:
        """Of a draft that was brought, with the verdict on it."""
        given = self.given(question)
        if given is None:
            return answer
        return f"{statements(answer)} {SUPPORTED if self.same(answer) == self.same(given) else NOT_SUPPORTED}"

    def _mend(self, question: Messages, text: str, member: Member) -> Prompt[str]:
        head, _ = _parts(question)
        content = f"{head}{DRAFT}{statements(text)}"
        return Prompt(as_member(({"role": "user", "content": content},), member), _mended, VERDICT)

    def _told_by_most(self, claim: str, critiques: Sequence[Critique]) -> str:
        counted = Counter(self.same(each.mended) for each in critiques).most_common(1)
        if not counted or counted[0][1] * 2 <= len(critiques):
            return claim
        return next(each.mended for each in critiques if self.same(each.mended) == counted[0][0])


def statements(text: str) -> str:
    """A reply without the verdict at its end."""
    text = text.strip()
    for verdict in (NOT_SUPPORTED, SUPPORTED):
        if text.endswith(verdict):
            return text.removesuffix(verdict).strip() or text
    return text


def _parts(question: Messages) -> tuple[str, str]:
    """The passage, with the blank line after it, and what is asked about it."""
    content = str(question[-1]["content"])
    head, blank, last = content.rpartition("\n\n")
    return head + blank, last


def _mended(text: str) -> str:
    mended = statements(text)
    if mended == text.strip():
        raise Unparsed("there is no verdict")
    return mended
