"""Registered models in MLflow: versions, tags, and the alias that moves only when a candidate earns it."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.models.policy import folder_digest
from posttrain.pipeline.chain import Chain
from posttrain.report.model_card import CARD, description
from posttrain.runtime.cached_folder import cached_folder
from posttrain.runtime.provenance import environment
from schemas.errors import Refusal
from schemas.recipe import Recipe
from schemas.results import GateReport, ModelReport
from schemas.secrets import without_credentials
from tasks.champion import CHALLENGER
from tasks.drift import profile_tag
from tasks.signatures import EXAMPLE, FEW, chat_signature
from tasks.tracking import DATABASE, connect, own_tracking, parent_of, tracking_uri, written_uri
from tasks.turns import CHAMPION
from tasks.version_artifacts import REST, rest_digest
from tasks.version_tags import ARTIFACT, KEY, RUN, SEAL, STORE, UNSEALED, cache_of, place_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CONSUMER, SERVER = (Path(__file__).with_name(name) for name in ("consumer.py", "chat_server.py"))
_PART = re.compile(r"checkpoint|base|adapter(-\d+)?")  # folders of a version that are loaded
GGUF = "model.gguf"
DESCRIBED = 5000  # characters of a description that MLflow's database takes
REQUIREMENTS = ["mlflow", "torch", "transformers", "peft", "safetensors"]


def client_of(chain: Chain) -> MlflowClient:
    """The MLflow client of a chain's recipe."""
    return connect(tracking_uri(chain.recipe, chain.store.root), chain.store.root)


def version_behind(uri: str, tracking: str, root: Path, where: str) -> ModelVersion:
    """The version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` means now; `where` names the field or argument.

    Raises:
        Refusal: when there is none, another program registered it, or its tags lead out of a store.
    """
    from mlflow.exceptions import MlflowException

    place = without_credentials(tracking)
    if tracking == own_tracking(root) and not (root / DATABASE).exists():  # connecting would make one
        raise Refusal(
            where=where,
            found=f"{uri}, and no model is registered in {place}",
            allowed="a registered version",
            remedy="check --store; a tracking server is named in tracking.uri",
        )
    name, at, alias = uri.removeprefix("models:/").partition("@")
    client = connect(tracking, root)
    try:
        if at:
            version = client.get_model_version_by_alias(name, alias)
        else:
            name, _, number = name.partition("/")
            version = client.get_model_version(name, number)
    except MlflowException as error:
        raise Refusal(
            where=where,
            found=f"{uri} ({error.message})",
            allowed=f"a version in {place}",
            remedy="check the name, or the tracking URI",
        ) from None
    if KEY not in version.tags:
        raise Refusal(
            where=where,
            found=f"{uri}, which another program registered",
            allowed="a version that posttrain registered",
            remedy="check the name",
        )
    place_of(version.tags, where)
    return version


def exact_uri(uri: str, recipe: Recipe, root: Path, where: str = "model.uri") -> str:
    """`models:/NAME/VERSION` of the version behind the URI in the recipe's field `where`."""
    version = version_behind(uri, tracking_uri(recipe, root), root, where)
    return f"models:/{version.name}/{version.version}"


def fetch_version(uri: str, recipe: Recipe, root: Path) -> Path:
    """A folder in the cache of the store with a registered version, downloaded whole or not at all.

    It is the checkpoint or, where the version has none, holds its base and the adapters on it.

    Raises:
        Refusal: when there is no such version, it has neither, or holds other files than were registered.
    """
    return fetched(version_behind(uri, tracking_uri(recipe, root), root, "model.uri"), root, "model.uri")


def fetched(version: ModelVersion, root: Path, where: str) -> Path:
    """The same for a version that was looked up; `where` names what asked for it.

    Raises:
        Refusal: when it has no checkpoint, or holds other files than were registered.
    """
    folder = cache_of(root, version.name, str(version.version), version.tags, where)
    return cached_folder(folder, lambda scratch: _download(version, where, scratch))


def _download(version: ModelVersion, where: str, scratch: Path) -> Path:
    """Fetch a version into a folder; returns the part of it that is the checkpoint, or the folder with base and adapters."""
    import mlflow

    from posttrain.checkpoints.parts import refuse_unexpected

    uri = f"models:/{version.name}/{version.version}"
    artifacts = f"{uri}/artifacts"
    listed = {Path(file.path).name for file in mlflow.artifacts.list_artifacts(artifact_uri=artifacts)}
    parts = {part for part in listed if _PART.fullmatch(part)}
    if not {"checkpoint", "base"} & parts:
        raise Refusal(
            where=where,
            found=f"{uri}, which has no checkpoint",
            allowed="a version as posttrain registers it",
            remedy="register it again",
        )
    wanted = {"checkpoint"} & parts or parts
    places = {part: Path(mlflow.artifacts.download_artifacts(f"{artifacts}/{part}", dst_path=str(scratch))) for part in wanted}
    refuse_unexpected(scratch, f"{where} ({uri})", own_loader=False)
    for part, place in places.items():
        if version.tags.get(f"{ARTIFACT}{part}", found := folder_digest(place)) != found:
            raise Refusal(
                where=where,
                found=f"{uri}, whose {part} is not what was registered",
                allowed="the bytes that its tags name",
                remedy="its artifacts or its tags were changed in MLflow: register it again",
            )
    return places["checkpoint"] if "checkpoint" in parts else next(iter(places.values())).parent


def log_version(
    chain: Chain, run_id: str, folder: Path, folders: dict[str, str], key: str, gates: tuple[GateReport, ...]
) -> ModelVersion:
    """Log the exported folders as a pyfunc model and register a version; an interrupted attempt's version is taken up."""
    import mlflow

    from posttrain.checkpoints.parts import refuse_unexpected

    assert chain.recipe.registry
    name = chain.recipe.registry.model
    client = client_of(chain)
    if found := find_version(client, name, key):
        return found
    for part in folders.values():
        refuse_unexpected(folder / part)
    parent = parent_of(client, chain.recipe, chain.store.root, run_id)
    with mlflow.start_run(run_id=parent), warnings.catch_warnings(record=True):  # MLflow's advice, which undoes any filter
        logged = mlflow.pyfunc.log_model(name="model", **consumer_of(folder, folders))
    card = folder / CARD
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    about = {"artifacts": ", ".join(folders), "model_id": str(logged.model_id), RUN: run_id}
    tags = version_tags(chain, key, gates) | profile_tag(chain) | about
    tags |= {f"{ARTIFACT}{part}": folder_digest(folder / path) for part, path in folders.items()}
    tags |= {f"{ARTIFACT}{REST}": rest_digest(logged.model_uri, folders)}
    client.update_run(parent, status="RUNNING")  # leaving `start_run` closed the parent in the middle of its run
    described = description(card.read_text(encoding="utf-8"))[:DESCRIBED] if card.exists() else None
    return client.create_model_version(name, logged.model_uri, parent, tags=tags, model_id=logged.model_id, description=described)


def consumer_of(folder: Path, folders: dict[str, str]) -> dict[str, Any]:
    """What `mlflow.pyfunc` needs to save an exported folder as a model."""
    return {
        "python_model": str(CONSUMER),
        "artifacts": {part: str(folder / path) for part, path in (folders | _files(folder)).items()} | {SERVER.name: str(SERVER)},
        "pip_requirements": pinned_requirements(),
        "signature": chat_signature(),
        "input_example": (EXAMPLE, FEW),
    }


def _files(folder: Path) -> dict[str, str]:
    """What lies beside the folders: the model card, which a reward model has not, and exported files."""
    return {name: name for name in (CARD, GGUF) if (folder / name).exists()}


def pinned_requirements() -> list[str]:
    """The consumer's requirements at the versions that were verified."""
    from importlib.metadata import version

    return [f"{package}=={version(package).partition('+')[0]}" for package in REQUIREMENTS]


def version_tags(chain: Chain, key: str, gates: tuple[GateReport, ...]) -> dict[str, str]:
    """What made this version, so that it can be walked back without the store."""
    from posttrain.pipeline.template_check import template_in_use

    recipe = chain.recipe
    spec = recipe.section("align") or recipe.sft
    origins = chain.policy_origins("register")
    template = template_in_use(chain).report
    tags = {
        KEY: key,
        STORE: str(chain.store.root),
        "recipe": recipe.name,
        "base_model": next((getattr(recipe.model, f) for f in ("name", "path", "uri") if hasattr(recipe.model, f)), "scratch"),
        "algorithm": recipe.alignment.algorithm,
        "method": spec.peft.method if spec else "full",
        "chat_template": f"{template.origin}, sha256 {template.sha256}",
        "git_commit": environment().get("git_commit", "unknown"),
    }
    tags |= {f"digest.{origin.name}": origin.digest for origin in origins}
    tags |= {f"digest.data.{name}": chain.source_origin(name).digest for name in chain.sources}
    return tags | {f"gate.{gate.name}": f"{gate.value:.4f} ({'passed' if gate.passed else 'failed'})" for gate in gates}


def note_results(chain: Chain, version: ModelVersion) -> None:
    """Tag a version with the seals of the results behind it, which then lie under another hand than the store.

    Tags that it has are left: a result that was rebuilt or edited since is not the one that was registered.
    """
    client = client_of(chain)
    for stage in chain.recipe.stages:
        if f"{SEAL}{stage}" not in version.tags:
            client.set_model_version_tag(
                version.name, version.version, f"{SEAL}{stage}", chain.stored(stage).result.seal or UNSEALED
            )


def find_version(client: MlflowClient, name: str, key: str) -> ModelVersion | None:
    """The version that a register stage with this key made, or None."""
    found = client.search_model_versions(f"name = '{name}' and tags.`posttrain.key` = '{key}'", max_results=1)
    return client.get_model_version(name, found[0].version) if found else None


def model_report(chain: Chain, version: str) -> ModelReport:
    """Where consumers find a version now."""
    assert chain.recipe.registry
    name, client = chain.recipe.registry.model, client_of(chain)
    aliases = client.get_model_version(name, version).aliases
    alias = next((alias for alias in (CHAMPION, CHALLENGER) if alias in aliases), None)
    uri = f"models:/{name}@{alias}" if alias else f"models:/{name}/{version}"
    written = written_uri(chain.recipe, chain.store.root)  # whose secrets the environment has
    return ModelReport(
        name=name,
        version=str(version),
        alias=alias,
        uri=uri,
        tracking_uri=written,
    )
