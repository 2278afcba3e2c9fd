"""What Prefect's server does by itself when runs of this project go wrong: `posttrain deploy` makes these automations.

The chain and `posttrain reconcile` see dead processes in the store, and sooner. Two automations are for when nobody looks: they
mark runs as crashed that have no heartbeat, or never began. The others tell a person, by a notification block of the server.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from flows.deployed.names import GATE, REFUSED, SKIPPED, TAG
from schemas.errors import Refusal

BEAT = "prefect.flow-run.heartbeat"
# An event has the name of its state, which is not the type where a run gives its ending a name of its own.
ENDS = {f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled", "Crashed", REFUSED, GATE, SKIPPED)}
SILENT = timedelta(seconds=600)
"""Without a heartbeat, after which a run counts as dead: more than three of Prefect's beats, which an outage may hold up."""
UNBEGUN = timedelta(seconds=420)
"""That a worker may take to begin a run as a process: more than two beats, in case the event of its beginning was lost."""
TAKEN = {f"prefect.flow-run.{name}" for name in ("Pending", "Submitting")}
BACK = {f"prefect.flow-run.{name}" for name in ("Scheduled", "Late", "AwaitingConcurrencySlot", "AwaitingRetry", "Cancelling")}
"""What else may happen to a run that a worker has taken, but that it begins."""
PROCESSES: Any = {"prefect.resource.role": "work-pool", "prefect.work-pool.type": "process"}
OURS: Any = [{"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"}]
SAID = "{{ flow.name }} / {{ flow_run.name }} is {{ flow_run.state.name }}: {{ flow_run.state.message }}\n{{ flow_run|ui_url }}"


def wanted(notify: UUID | None) -> list[AutomationCore]:
    """The automations as they are to be; those that tell a person only where there is a block that does."""
    silent = _automation(
        "no heartbeat", "A run whose process is gone is marked as crashed, which frees its place in the pool.",
        _proactive(OURS, {BEAT}, {BEAT, *ENDS}, SILENT), _crash(f"no heartbeat for {SILENT.total_seconds():.0f} s"),
    )  # fmt: skip
    unbegun = _automation(
        "never began", "A run that was to be a process, and that none has begun, is marked as crashed.",
        _proactive([*OURS, PROCESSES], TAKEN, {"prefect.flow-run.Running", BEAT, *BACK, *ENDS}, UNBEGUN),
        _crash(f"taken by a worker, and not begun for {UNBEGUN.total_seconds():.0f} s"),
    )  # fmt: skip
    if notify is None:
        return [silent, unbegun]
    tell = SendNotification(block_document_id=notify, subject="posttrain", body=SAID)
    failed = _reactive({"prefect.flow-run.*"}, {"prefect.state-type": ["FAILED", "CRASHED"]})
    return [
        silent,
        unbegun,
        _automation("a run failed", "Tell of runs that failed, crashed or were refused.", failed, tell),
        _automation("a run is late", "Tell of runs that no worker takes.", _reactive({"prefect.flow-run.Late"}, {}), tell),
    ]


def ensure(client: SyncPrefectClient, notify: str | None) -> list[str]:
    """Make them, or change those that are there; what was done, a sentence each.

    Raises:
        Refusal: when the server has no such notification block.
    """
    done = []
    for each in wanted(_block(client, notify)):
        if there := client.read_automations_by_name(each.name):
            client.update_automation(there[0].id, each)
        else:
            client.create_automation(each)
        done.append(f"automation {each.name}")
    return done


def removable(client: SyncPrefectClient) -> list[Automation]:
    """Those that are there, unless deployments are left that need them."""
    if client.read_deployments(deployment_filter=DeploymentFilter.model_validate({"tags": {"all_": [TAG]}}), limit=1):
        return []
    return [each for each in client.read_automations() if TAG in each.tags]


def _block(client: SyncPrefectClient, notify: str | None) -> UUID | None:
    """The block that a person names as `TYPE/NAME`, as Prefect does."""
    if notify is None:
        return None
    kind, _, name = notify.partition("/")
    try:
        return client.read_block_document_by_name(name, kind).id
    except ObjectNotFound:
        raise Refusal(
            where="--notify", found=f"{notify}, which the server does not have", allowed="TYPE/NAME of a notification block",
            remedy="make one in Prefect's pages under Blocks: slack-webhook/NAME or email-server-credentials/NAME, say",
        ) from None  # fmt: skip


def _crash(message: str) -> ChangeFlowRunState:
    return ChangeFlowRunState(state=StateType.CRASHED, name=None, force=False, message=message)


def _proactive(related: Any, after: set[str], expect: set[str], within: timedelta) -> EventTrigger:
    """When none of `expect` comes after one of `after`, for a run."""
    return EventTrigger(
        match={"prefect.resource.id": "prefect.flow-run.*"}, match_related=related, after=after, expect=expect,
        for_each={"prefect.resource.id"}, posture=Posture.Proactive, threshold=1, within=within,
    )  # fmt: skip


def _reactive(events: set[str], labels: dict[str, Any]) -> EventTrigger:
    """At each of `events` of our runs whose `labels` are these."""
    return EventTrigger(
        match={"prefect.resource.id": "prefect.flow-run.*", **labels}, match_related=OURS, expect=events,
        posture=Posture.Reactive, for_each={"prefect.resource.id"}, threshold=1, within=timedelta(0),
    )  # fmt: skip


def _automation(name: str, description: str, trigger: EventTrigger, *actions: ActionTypes) -> AutomationCore:
    given: dict[str, Any] = {"name": f"{TAG}: {name}", "description": description, "tags": [TAG]}
    return AutomationCore(**given, trigger=trigger, actions=list(actions))
