"""Chat templates: those of a checkpoint, a few by name, and how a merge carries one."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from model_merge.header import FormatError

CONFIG = "tokenizer_config.json"
FILE = "chat_template.jinja"

NAMED = {
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}"
        "{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
        "{{ message['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}"
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
        "{% else %}{{ raise_exception('only user and assistant take part') }}{% endif %}"
        "{% endfor %}"
    ),
    "alpaca": (
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
        "{% elif message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
        "{% else %}{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
    ),
}


def choose_template(wanted: str, folders: Sequence[Path]) -> str | None:
    """The template meant by `auto` (what most models have), a name, or the template itself.

    >>> choose_template("chatml", [])[:12]
    '{% for messa'

    Raises:
        ValueError: it is none of these.
    """
    if wanted == "auto":
        found = [template for folder in folders if (template := read_template(folder))]
        return Counter(found).most_common(1)[0][0] if found else None
    if wanted in NAMED:
        return NAMED[wanted]
    if "{" not in wanted:
        raise ValueError(f"chat_template: {wanted!r} is no template and none of auto, {', '.join(NAMED)}")
    return wanted


def read_template(folder: Path) -> str | None:
    """The template of a checkpoint: of its own file, or of tokenizer_config.json."""
    if (folder / FILE).is_file():
        return (folder / FILE).read_text(encoding="utf-8").strip()
    template = _read_config(folder).get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {entry["name"]: entry["template"] for entry in template}
    if isinstance(template, dict):
        template = template.get("default")
    return template.strip() if isinstance(template, str) else None


def template_files(template: str, files: Mapping[str, bytes], donor: Path) -> dict[str, bytes]:
    """How a merge carries a template; readers of old look into tokenizer_config.json.

    `files` are those that do not come from the donor.
    """
    config = json.loads(files[CONFIG]) if CONFIG in files else _read_config(donor)
    files = {FILE: template.encode()}
    if config:
        text = json.dumps({**config, "chat_template": template}, indent=2, ensure_ascii=False) + "\n"
        files[CONFIG] = text.encode()
    return files


def _read_config(folder: Path) -> dict[str, object]:
    path = folder / CONFIG
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{str(path)!r} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise FormatError(f"{str(path)!r} is no JSON object")
    return content
