"""How `--help` reads: panels of options, readable types, each range and default said once, an example per command."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

COMMON: Final = "Common options"
#: `typer.Option` for each panel of the long option lists; short lists stay in the panel "Options".
common_option: Final = partial(typer.Option, rich_help_panel=COMMON)
data_option: Final = partial(typer.Option, rich_help_panel="Data")
network_option: Final = partial(typer.Option, rich_help_panel="Network")
notify_option: Final = partial(typer.Option, rich_help_panel="Events")
schedule_option: Final = partial(typer.Option, rich_help_panel="Schedule")
upkeep_option: Final = partial(typer.Option, rich_help_panel="Upkeep after each round")
search_option: Final = partial(typer.Option, rich_help_panel="Search")
model_option: Final = partial(typer.Option, rich_help_panel="Model")
output_option: Final = partial(typer.Option, rich_help_panel="Output")
policy_option: Final = partial(typer.Option, rich_help_panel="Policy")
cost_option: Final = partial(typer.Option, rich_help_panel="Costs")
limit_option: Final = partial(typer.Option, rich_help_panel="Limits")
fill_option: Final = partial(typer.Option, rich_help_panel="Fills and range")

_TYPES: Final = {
    "int": "INTEGER",
    "int range": "INTEGER",
    "float": "NUMBER",
    "float range": "NUMBER",
    "str": "TEXT",
    "path": "PATH",
    "bool": "",
}


class Command(TyperCommand):
    """A command whose help has readable types, and each range and default once."""

    def defaults(self) -> Mapping[str, str]:
        """Return the default, as text, of each option such as "--seed" that does not hold its default itself."""
        return {}

    def describe(self, ctx: Any) -> None:  # noqa: ANN401 (Typer's private classes)
        """Give each parameter its type, range and default in the help; a second call changes nothing."""
        _describe(self.get_params(ctx), ctx, self.defaults())

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 (as above)
        """Show the help."""
        self.describe(ctx)
        super().format_help(ctx, formatter)


class Group(TyperGroup):
    """A group of commands whose help has readable types, and each range and default once."""

    def describe(self, ctx: Any) -> None:  # noqa: ANN401 (as above)
        """Give each parameter its type, range and default in the help; a second call changes nothing."""
        _describe(self.get_params(ctx), ctx, {})

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 (as above)
        """Show the help."""
        self.describe(ctx)
        super().format_help(ctx, formatter)


class DefaultGroup(Group):
    """A group that runs its first command where the command line names none of them: `mltrain backtest best`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 (as above)
        """Parse the words of a command line after those that name the group."""
        return super().parse_args(ctx, self.add_default(args))

    def add_default(self, args: list[str]) -> list[str]:
        """Return the words of a command line with the first command before them, unless they begin with a command."""
        return args if args and args[0] in self.commands else [next(iter(self.commands)), *args]


def add_command(
    app: typer.Typer, name: str, function: Callable[..., None], *, example: str, cls: type[Command] = Command
) -> None:
    """Add a command with an example of its use to an app or a group."""
    app.command(name, cls=cls, epilog=f"Example: {example}")(function)


def new_group(
    text: str, *, listing: Callable[..., None] | None = None, example: str | None = None, has_default: bool = False
) -> typer.Typer:
    """Return a group of commands.

    Args:
        text: Help of the group.
        listing: Called for the group without a command, which then lists something; None: the help is shown.
        example: A command line that calls the listing.
        has_default: Whether the group's first command runs where none is named.
    """
    group = typer.Typer(
        cls=DefaultGroup if has_default else Group,
        help=text,
        epilog=None if example is None else f"Example: {example}",
        invoke_without_command=listing is not None,
        no_args_is_help=listing is None,
    )
    if listing is not None:
        group.callback()(listing)
    return group


def _describe(parameters: list[Any], ctx: Any, defaults: Mapping[str, str]) -> None:  # noqa: ANN401 (as above)
    """Give each parameter a readable type, and append its range and its default to its help.

    Typer would show `<int range> [1<=x<=256]`, and `<bool>` for a flag. It reads `min`, `max` and `show_default` for
    the help alone: values are checked by the annotation.
    """
    for parameter in parameters:
        if isinstance(parameter, TyperOption):
            label = parameter.display_type(ctx).strip("<>")
            parameter.metavar = parameter.metavar or _TYPES.get(label, label)
            if "--help" in parameter.opts:
                parameter.rich_help_panel = COMMON if any(p.rich_help_panel == COMMON for p in parameters) else None
        elif isinstance(parameter, TyperArgument):
            # No type: the name of an argument says what it is.
            parameter.display_type_rich = lambda ctx: None  # type: ignore[method-assign]  # noqa: ARG005
        if parameter.show_default:
            default = defaults.get(parameter.opts[0]) or _default_text(parameter)
            text = (parameter.help or "").removesuffix(".") + _range_text(parameter.min, parameter.max)
            parameter.help = f"{text}." + (f" Default: {default}." if default else "")
        parameter.min = parameter.max = None
        parameter.show_default = False


def _range_text(low: float | None, high: float | None) -> str:
    if low is None:
        return ""
    return f" ({low:,} or more)" if high is None else f" ({low:,} to {high:,})"


def _default_text(parameter: Any) -> str:  # noqa: ANN401 (as above)
    """Return a parameter's default as text; empty for None and for a flag without a negative form."""
    default = parameter.default
    if parameter.param_type_name == "option" and parameter.secondary_opts:
        return str((parameter.opts if default else parameter.secondary_opts)[0])
    if default is None or isinstance(default, bool):
        return ""
    return f"{default:g}" if isinstance(default, float) else str(getattr(default, "value", default))
