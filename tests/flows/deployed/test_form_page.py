"""Runs that a person starts through the form in Prefect's pages, in a browser: they complete with what was filled in."""

from __future__ import annotations

import shutil
import time

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAGES = {"old": "", "new": "/v2"}
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


class Form:
    """The form of a deployment, with its fields by their labels."""

    def __init__(self, page) -> None:
        self.page, self.errors = page, []
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def choose(self, label: str, tab: str, among: str = "") -> None:
        """Click a tab of a field; `among` is the label of the section in which the field is."""
        self._after(label, f"*[self::button or self::label][normalize-space(.)='{tab}']", among).click()

    def put(self, label: str, value: str, among: str = "") -> None:
        """Write into the box of a field."""
        self._after(label, "*[self::input or self::textarea]", among).fill(value)

    def submit(self) -> str:
        """Send it, again while the server is busy, as one on SQLite is at times; the id of the run."""
        for _ in range(5):
            with self.page.expect_response("**/create_flow_run") as answer:
                self.page.get_by_role("button", name="Submit").click()
            if answer.value.status != 503:
                break
        assert answer.value.status == 201, answer.value.text()
        return answer.value.json()["id"]

    def _after(self, label: str, what: str, among: str):
        """The first `what` after the label, of that label which is the first after `among`."""
        path = ""
        for text in filter(None, (among, label)):
            path = f"({path}//*[normalize-space(.)='{text}' or normalize-space(.)='{text} (Optional)'])[1]/following::"
            path = path.replace("following:://", "following::")
        return self.page.locator(f"xpath=({path}{what})[1]")


@pytest.fixture
def open_form(site, api):
    """The form of the deployment of a recipe, in the old or the new pages."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])

        def open_form(recipe: str, pages: str) -> Form:
            deployment = api(lambda client: client.read_deployment_by_name(f"post-training/{recipe}"))
            root = site.clients["PREFECT_API_URL"].removesuffix("/api")
            form = Form(browser.new_page(viewport={"width": 1300, "height": 1600}))
            form.page.goto(f"{root}{PAGES[pages]}/deployments/deployment/{deployment.id}/run")
            form.page.wait_for_selector("text=Beta", timeout=120_000)
            return form

        yield open_form
        browser.close()


@pytest.fixture
def ended(api):
    """The run, once it has ended."""

    def wait(run_id: str, seconds: float = 500):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            run = api(lambda client: client.read_flow_run(run_id))
            if run.state and run.state.is_final():
                return run
            time.sleep(1)
        raise AssertionError(f"run {run_id} has not ended")

    return wait


def test_a_run_with_another_beta_completes(open_form, ended):
    form = open_form("small", "old")
    form.put("Max Drop Rate", "0.22")  # a contract of its own: other tests of this site build that of the recipe
    form.put("Beta", "0.3")
    run = ended(form.submit())
    assert form.errors == []
    assert run.state.name == "Completed", run.state.message
    assert run.parameters["recipe"]["alignment"]["beta"] == 0.3
    assert "align" in run.state.message.partition("built: ")[2]
    assert "filter" not in run.state.message  # what the page fills in by itself changes nothing


@pytest.mark.slow
@pytest.mark.parametrize("pages", PAGES)
def test_a_run_with_another_method_completes(open_form, ended, pages):
    form = open_form("small", pages)
    form.put("Max Drop Rate", "0.23")
    form.choose("Peft", "IA3", among="Alignment")
    form.put("Learning Rate", "0.004" if pages == "old" else "0.005", among="Alignment")
    run = ended(form.submit())
    assert form.errors == []
    assert run.state.name == "Completed", run.state.message
    assert run.parameters["recipe"]["alignment"]["peft"]["method"] == "ia3"
