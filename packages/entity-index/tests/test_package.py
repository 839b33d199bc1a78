import entity_index


def test_every_public_name_is_there_and_explains_itself():
    for name in entity_index.__all__:
        assert getattr(entity_index, name).__doc__
    assert entity_index.__all__ == sorted(entity_index.__all__)
