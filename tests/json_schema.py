"""What the JSON Schema of the YAML file says of a text."""

from functools import cache

import jsonschema
import yaml

from vhost9p.reference import schema


@cache
def _validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(schema.schema())
    return jsonschema.Draft202012Validator(schema.schema())


def problems(text: str) -> list[str]:
    """What it refuses; empty if it accepts the text."""
    return [error.message for error in _validator().iter_errors(yaml.safe_load(text))]
