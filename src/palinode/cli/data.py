"""`palinode data`: add, download, list and show the corpora that have a name."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palinode.base.config import decode
from palinode.base.errors import BadInput
from palinode.cli import options
from palinode.cli.options import as_json, examples
from palinode.cli.texttable import shown, text_table

if TYPE_CHECKING:
    from palinode.data.catalogue import Entry

app = typer.Typer(help="Add, fetch, list and show corpora by name.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The name of the corpus, as in data.corpus.")]


@app.command(epilog=examples("data add my_corpus.txt --name mine"))
def add(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A txt, md, jsonl, csv or parquet file, or a folder of them.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="The name of the corpus. Default: the name of the file.")
    ] = None,
    text_field: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="The column that holds a document. Repeat it to join several."),
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="How the bytes of text files are read, such as cp1252 or utf-16.")
    ] = None,
    document_separator: Annotated[
        str | None, typer.Option(metavar="MARKER", help="A marker between the documents of one text file.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="given: keep the splits that file names say, as without this option. "
            "documents or contiguous: do not keep them; a run splits the text.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Store the text of a file or folder under a name.

    The options are the settings of the same names in a run's data.
    """
    from palinode.data import catalogue
    from palinode.data.config import DataConfig
    from palinode.data.readers import Reading

    given = {
        "text_field": tuple(text_field) if text_field else None,
        "encoding": encoding,
        "document_separator": document_separator,
        "split": split,
    }
    config = decode(DataConfig, {key: value for key, value in given.items() if value is not None})
    _print_kept(catalogue.add(path, name or path.stem, reading=Reading.of(config)), json)


@app.command(epilog=examples("data get wikitext-2", "data get wikitext-2 --from ./wikitext-copy"))
def get(
    name: NameArgument,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="DIRECTORY", help="A local copy of the data set's repository.")
    ] = None,
    limit_characters: Annotated[
        int | None, typer.Option(min=1, help="The most characters of train text to keep.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Download a known data set and store it.

    The known data sets are wikitext-2, wikitext-103, tinystories, fineweb-edu and eltec-eng (99 English novels).
    """
    from palinode.data import catalogue

    if source is not None and not source.is_dir():
        raise BadInput("there is no such directory", file=str(source), field="--from")
    _print_kept(catalogue.get(name, source=source, max_characters=limit_characters), json)


@app.command(epilog=examples("data ls"))
def ls(json: options.Json = False) -> None:
    """List the named corpora: stored here, or ready to download."""
    from palinode.data import catalogue

    entries = catalogue.entries()
    rows = [
        [entry.name, entry.state, _count(entry.documents), _count(entry.characters), entry.licence, entry.source]
        for entry in entries
    ]
    columns = ("name", "state", "documents", "characters", "licence", "source")
    text = text_table(columns, rows, right=("documents", "characters"))
    typer.echo(as_json([asdict(entry) for entry in entries]) if json else text)


@app.command(epilog=examples("data show python-docs", "data show mine --verify"))
def show(
    name: NameArgument,
    verify: Annotated[bool, typer.Option("--verify", help="Check every byte against its hash.")] = False,
    json: options.Json = False,
) -> None:
    """Show where a corpus comes from, its size, hash and licence."""
    from palinode.data import catalogue

    manifest = catalogue.show(name, verify=verify)
    typer.echo(
        as_json(manifest) if json else "\n".join(f"{key}: {shown(str(value))}" for key, value in manifest.items())
    )


def _print_kept(corpus: Entry, json: bool) -> None:
    text = f"{corpus.name}: {corpus.documents} documents, {corpus.characters} characters"
    typer.echo(as_json(asdict(corpus)) if json else text)


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
