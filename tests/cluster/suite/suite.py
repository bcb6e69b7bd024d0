"""What tests say of themselves."""


def needs_penstock(test):
    """Marks a test that has to fail where nothing is enforced; `run.py --without-penstock` holds it to that."""
    test.needs_penstock = True
    return test
