"""How views declare what they take and answer, and the OpenAPI document that follows from it."""

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

from flask import Flask, Response
from flask_smorest import Api, Blueprint
from marshmallow import Schema

from anymind_lite.routes._context import API_KEY_SCHEME, BEARER_SCHEME
from anymind_lite.routes._documented import View, called, documented
from anymind_lite.routes._errors import answer_error
from anymind_lite.routes._json import StrictParser
from anymind_lite.routes._schemas import ErrorSchema
from anymind_lite.routes._urls import IdConverter, id_parameter_schema

OPENAPI_VERSION = "3.1.0"

_DESCRIPTION = (
    "Upload Python agents, build them, execute them in a sandbox.\n\n"
    "Every error has the shape of `Error`. Lists are newest first. Instants are ISO 8601 in UTC. "
    "Another user's things answer 404."
)

# Status: name, meaning, example.
_ERRORS: dict[int, tuple[str, str, str]] = {
    400: ("BAD_REQUEST", "The request cannot be carried out as it was made", "name is required"),
    401: ("UNAUTHORIZED", "Nobody is signed in", "Invalid API key"),
    403: (
        "FORBIDDEN",
        "The account is deactivated, or an API key was sent where a token is needed",
        "This account is deactivated",
    ),
    404: ("NOT_FOUND", "It does not exist, or is somebody else's", "Agent not found"),
    409: (
        "CONFLICT",
        "The earlier request with this Idempotency-Key has not ended; `Location` says where it is",
        "Execution 5 of this Idempotency-Key has not ended yet",
    ),
    413: ("TOO_LARGE", "The body is too large", "The JSON body is larger than 1048576 bytes"),
    429: (
        "TOO_MANY_REQUESTS",
        "Too many attempts, or the agent's line is full; `Retry-After` says for how many seconds",
        "Too many attempts; try again in 42 seconds",
    ),
    500: ("INTERNAL_SERVER_ERROR", "The server is at fault", "Internal server error"),
    503: (
        "SERVICE_UNAVAILABLE",
        "No execution slot or waiting place is free; `Retry-After` says for how many seconds",
        "All execution slots are busy",
    ),
    507: ("INSUFFICIENT_STORAGE", "The server's disk is full", "The server's disk is full"),
}
_RETRY_AFTER = {
    "Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer", "minimum": 0}}
}
_PATH_PARAMETERS = {
    "agent_id": "Id of the agent",
    "api_key_id": "Id of the API key",
    "execution_id": "Id of the execution",
    "version_id": "Id of the version",
    "filepath": "The `tarball_path` of a version",
}
_SECURITY_SCHEMES = {
    API_KEY_SCHEME: {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "For the CLI and programs; made with `POST /api/v1/api-keys`",
    },
    BEARER_SCHEME: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "For people; made with `POST /api/v1/auth/login`",
    },
}


class ApiBlueprint(Blueprint):
    """A blueprint whose views read strictly and say what they answer."""

    ARGUMENTS_PARSER = StrictParser()

    def answers(self, status: int, schema: Schema | type[Schema] | None, description: str) -> Any:
        """Document the answer of a view when all is well; the view itself makes the answer."""
        document = self.alt_response(status, schema=schema, description=description, success=True)

        def decorate(view: View) -> Any:
            return self.doc(operationId=view.__name__)(document(view))

        return decorate

    def may_answer(self, *statuses: int) -> Any:
        """Document errors that do not follow from the shape of the operation."""
        return self.doc(responses={str(status): _error_reference(status) for status in statuses})

    def alt_response(self, *args: Any, **kwargs: Any) -> Any:
        """Document another answer of a view."""
        return partial(documented, document=super().alt_response(*args, **kwargs))

    @staticmethod
    def doc(**kwargs: Any) -> Any:
        """Document a view in the words of OpenAPI."""
        return partial(documented, document=Blueprint.doc(**kwargs))

    def arguments(self, schema: type[Schema], *, location: str = "json") -> Any:
        """Hand the view what a request says, read by one instance of the schema."""
        document = super().arguments(schema, location=location)
        read = self.ARGUMENTS_PARSER.use_args(schema(), location=location)

        def decorate(view: View) -> View:
            return documented(view, document, read(called(view)))

        return decorate


class DocumentedApi(Api):
    """flask-smorest's registry of operations, with this system's errors."""

    ERROR_SCHEMA = ErrorSchema
    DEFAULT_ERROR_RESPONSE_NAME = None

    def __init__(self, app: Flask) -> None:
        self._undocumented: list[ApiBlueprint] = []
        self._documenting = threading.Lock()
        super().__init__(app)

    def register_blueprint(self, blueprint: ApiBlueprint) -> None:
        """Register the views. What they declare goes into the document when one is asked for.

        flask-smorest's own does both at once, which is a tenth of a start.
        """
        self._app.register_blueprint(blueprint)
        for endpoint, view in tuple(self._app.view_functions.items()):
            self._app.endpoint(endpoint)(called(view))
        self._undocumented.append(blueprint)

    def _register_responses(self) -> None:
        """Leave out, at a start, what is only for the document."""

    def document(self) -> dict[str, Any]:
        """Return the document of all that is registered."""
        with self._documenting:
            super()._register_responses()
            for blueprint in self._undocumented:
                name = blueprint.name
                blueprint.register_views_in_doc(
                    self, self._app, self.spec, name=name, parameters=None
                )
                self.spec.tag({"name": name, "description": blueprint.description})
            self._undocumented.clear()
            return dict(self.spec.to_dict())

    def handle_http_exception(self, error: Exception) -> Response:
        """Answer as every other error is answered."""
        return answer_error(error)


def make_api(app: Flask, *, title: str, version: str) -> DocumentedApi:
    """Return the registry for an application's blueprints."""
    app.config.update(API_TITLE=title, API_VERSION=version, OPENAPI_VERSION=OPENAPI_VERSION)
    api = DocumentedApi(app)
    api.register_converter(IdConverter, id_parameter_schema)
    return api


def build_document(api: DocumentedApi) -> dict[str, Any]:
    """Return the whole OpenAPI document, with what follows from the shape of an operation."""
    document = api.document()
    document["info"]["description"] = _DESCRIPTION
    components = document.setdefault("components", {})
    components["securitySchemes"] = _SECURITY_SCHEMES
    components["responses"] = _error_responses()
    components["schemas"].pop("PaginationMetadata", None)  # of a feature that is not used
    for item in document["paths"].values():
        for parameter in item.get("parameters", ()):
            parameter["description"] = _PATH_PARAMETERS[parameter["name"]]
        for method, operation in _operations(item):
            for status in _implied_errors(item, method, operation):
                operation["responses"].setdefault(str(status), _error_reference(status))
            operation["responses"] = dict(sorted(operation["responses"].items()))
    return document


def _operations(item: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from ((method, value) for method, value in item.items() if method != "parameters")


def _implied_errors(item: dict[str, Any], method: str, operation: dict[str, Any]) -> Iterator[int]:
    if operation.get("security"):
        yield from (401, 403)
    if item.get("parameters"):
        yield 404
    if operation.get("parameters"):  # a query string
        yield 400
    if operation.get("requestBody"):
        yield from (400, 413)
    if method != "get":
        yield 507
    if operation["operationId"] != "get_health":
        yield 500


def _error_reference(status: int) -> dict[str, str]:
    return {"$ref": f"#/components/responses/{_ERRORS[status][0]}"}


def _error_responses() -> dict[str, Any]:
    return {
        name: {
            "description": description,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/Error"},
                    "example": {"detail": example},
                }
            },
            **({"headers": _RETRY_AFTER} if status in (429, 503) else {}),
        }
        for status, (name, description, example) in _ERRORS.items()
    }
