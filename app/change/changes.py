"""Takes the changes that are asked for, one after the other; each ends done, gone back, failed or refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from pydantic import ValidationError

from app.bounded_log import say
from app.change.deployer import Deployer, DeployerError
from app.change.plan import Plan, counted, last_generation, plan_of
from app.change.records import ChangeFolder, ChangeStatus, ModelProgress, Order
from app.change.stage import Stage
from app.change.transition import NotTakenError, Transition
from app.edge import EdgeError
from app.settings import Settings

POLL_S = 0.5
TOLD = (NotTakenError, DeployerError, EdgeError, OSError)


@dataclass
class Changes:
    """deployer: a new one for each change. refusal: why nothing can be changed now, or None.

    prepared: the settings of an order as this service reads them. kept: told the settings of a change that is done.
    """

    stage: Stage
    folder: ChangeFolder
    deployer: Callable[[], Deployer]
    refusal: Callable[[], str | None] = lambda: None
    prepared: Callable[[Settings], Settings] = lambda settings: settings
    kept: Callable[[Settings, str], None] = lambda *_: None
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self._generation = last_generation(self.stage.in_force)
        self._status = ChangeStatus("", "waiting", 0, 0)

    async def follow(self) -> None:
        """Until cancelled."""
        while not self._opened():
            await asyncio.sleep(POLL_S)
        while True:
            if order := self.folder.take():
                try:
                    await self._obey(order)
                finally:
                    self.folder.close()
            await asyncio.sleep(POLL_S)

    def _opened(self) -> bool:
        """A shared folder that fails for a moment is no reason to end a service."""
        try:
            self.folder.open()
        except OSError:
            return False
        return True

    async def _obey(self, order: Order) -> None:
        now = self.clock()
        self._status = ChangeStatus(order.id, "preparing", now, now, profile=order.profile)
        try:
            given = Settings.model_validate(order.settings)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            return self._tell("refused", f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        new = self.prepared(given)
        plan = plan_of(self.stage.in_force, new)
        models = {each.model: asdict(ModelProgress(each.how, "waiting")) for each in plan.models}
        self._status = replace(self._status, plan=plan.to_json(), models=models)
        if refusal := self.refusal() or plan.refusal:
            return self._tell("refused", refusal)
        try:
            await self._change(order, given, new, plan)
        except asyncio.CancelledError:
            self._tell("failed", "the service ended in the middle of it")
            raise
        except Exception as error:
            say(f"the change {order.id} failed: {error!r}")
            self._tell("failed", f"{error!r}; `corral logs` says more")

    async def _change(self, order: Order, given: Settings, new: Settings, plan: Plan) -> None:
        before = self.stage.in_force
        if not plan.empty:
            async with self.deployer() as deployer:
                try:
                    self._tell("changing")
                    await self._go(deployer, new, order.timeout_s)
                except TOLD as error:
                    await self._go_back(deployer, before, order.timeout_s, str(error))
                    return
        self._all("done")
        self._tell("done", self._keep(given, order.profile))

    def _keep(self, settings: Settings, profile: str) -> str:
        """What there is to be said of a change that is in force."""
        try:
            self.kept(settings, profile)
        except OSError as error:
            return f"it could not be noted for the next start, which will be as before: {error}"
        return ""

    async def _go_back(self, deployer: Deployer, before: Settings, timeout_s: float, reason: str) -> None:
        say(f"a change goes back: {reason}")
        self._tell("going back", reason)
        try:
            await self._go(deployer, before, timeout_s, again=True)
        except TOLD as error:
            self._tell("failed", f"{reason}; and the way back failed, so that not all is as before: {error}")
            return
        self._all("as before")
        self._tell("gone back", reason)

    async def _go(self, deployer: Deployer, target: Settings, timeout_s: float, again: bool = False) -> None:
        self._generation += 1
        counted_target = counted(self.stage.in_force, target, self._generation)
        await Transition(self.stage, deployer, counted_target, self._say, timeout_s, again).run()

    def _say(self, model: str, state: str, detail: str) -> None:
        how = self._status.models.get(model, {"how": "new"})["how"]
        told = asdict(ModelProgress(how, state, detail))
        if self._status.models.get(model) != told:
            self._status = replace(self._status, models={**self._status.models, model: told})
            self._tell(self._status.phase, self._status.message)

    def _all(self, state: str) -> None:
        models = {model: {**told, "state": state, "detail": ""} for model, told in self._status.models.items()}
        self._status = replace(self._status, models=models)

    def _tell(self, phase: str, message: str = "") -> None:
        self._status = replace(self._status, phase=phase, message=message, updated=self.clock())
        self.folder.tell(self._status)
