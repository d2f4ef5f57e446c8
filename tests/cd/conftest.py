import pytest

from .world import World, application, project, release


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def world(tmp_path):
    """A World with the project `services` in it, and nothing else."""
    async with World(tmp_path) as world:
        world.store.create(project())
        yield world


@pytest.fixture
async def released(world):
    """A World in which Application `digits-dev` serves v1; `released.first` is the commit."""
    world.first = world.repository.commit(release("app:v1"))
    world.store.create(application())
    await world.deployed(world.first)
    return world
