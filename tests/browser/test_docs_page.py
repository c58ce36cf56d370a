"""`/docs` in a browser that reaches nothing but the service."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest


@pytest.fixture(scope="module")
def url(serve, elsewhere, tmp_path_factory):
    found = serve({"url": str(tmp_path_factory.mktemp("data"))})
    # not as localhost, which swagger-ui treats as its own case
    return f"http://{elsewhere}:{urlsplit(found).port}"


def test_the_documentation_is_whole_and_can_be_tried(visit, url):
    visited = visit(urlsplit(url).netloc)
    page = visited.page
    page.goto(f"{url}/docs")
    operations = page.locator(".opblock")
    operations.first.wait_for()
    told = page.evaluate("fetch('/openapi.json').then(answer => answer.json())")
    assert operations.count() == sum(len(methods) for methods in told["paths"].values())
    page.locator("#operations-models-models_v1_models_get").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    page.locator(".live-responses-table .response-col_status", has_text="200").wait_for()
    assert '"nano"' in page.locator(".live-responses-table").inner_text()
    assert not visited.complaints
    assert {
        request.response().status
        for request in visited.requests
        if not request.url.startswith("data:")
    } == {200}
