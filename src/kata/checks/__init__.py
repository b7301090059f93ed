"""What can be found out about a host before a container is started on it, and what to do about it.

`checks` gives findings, each with a remedy; `environment` gives versions and paths. Nothing here
changes the host.
"""

from collections.abc import Iterator

from kata.checks.finding import Finding, Level

__all__ = ["Finding", "Level", "checks"]


def checks(configuration_path: str | None = None) -> Iterator[Finding]:
    """Yield a finding for each check, slow ones last; `configuration_path` as in `kata.config.load`.

    A configuration that cannot be used is a finding too, and what depends on it is left out.
    """
    from kata.checks import containerd, host, installation
    from kata.config import ConfigError, Configuration, load

    configuration: Configuration | None = None
    try:
        configuration = load(configuration_path)
    except ConfigError as error:
        yield Finding("configuration", Level.FAIL, error.message, error.hint)
    else:
        yield installation.configuration(configuration)
    yield host.privileges()
    yield host.virtualisation()
    yield host.vsock()
    yield host.vhost_net()
    yield host.kernel_modules()
    yield host.cgroups()
    yield host.memory(configuration)
    if configuration:
        yield from installation.checks(configuration)
    yield from containerd.checks()
