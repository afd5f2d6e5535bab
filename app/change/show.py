"""What `corral apply` prints: the plan, and how far the change is."""

from __future__ import annotations

import sys
import time

from rich.markup import escape
from rich.table import Table

from app.change.plan import WORDING, How, Plan
from app.change.records import ChangeStatus
from app.show import LiveBoard, aligned


def print_plan(plan: Plan) -> None:
    """One line for each model, and one for what else changes."""
    rows = [["model", "change", "what changes", "how"]]
    rows += [[each.model, each.how, ", ".join(each.fields), WORDING[each.how]] for each in plan.models]
    sys.stdout.write(aligned(rows))
    if plan.settings:
        sys.stdout.write(f"other settings, taken without a restart: {', '.join(plan.settings)}\n")
    if not any(each.how is not How.UNCHANGED for each in plan.models) and not plan.settings:
        sys.stdout.write("nothing changes\n" if not plan.fixed else "")


class ChangeBoard(LiveBoard):
    """Live progress of a change."""

    def update(self, status: ChangeStatus) -> None:
        if self._live:
            self._live.update(_table(status))
            return
        self._say_once("change", status.phase)
        for model, told in status.models.items():
            detail = f" ({told['detail']})" if told["detail"] else ""
            self._say_once(model, f"{told['state']}{detail}")

    def _say_once(self, who: str, what: str) -> None:
        if self._said.get(who) != what:
            self._said[who] = what
            took_s = time.monotonic() - self._began
            self._console.print(f"{took_s:6.1f} s  {who}: {what}", highlight=False, markup=False)


def _table(status: ChangeStatus) -> Table:
    table = Table(title=f"change: {status.phase}", title_justify="left", box=None)
    for column in ("model", "change", "state", ""):
        table.add_column(column)
    for model, told in status.models.items():
        table.add_row(model, told["how"], told["state"], escape(told["detail"]))
    return table
