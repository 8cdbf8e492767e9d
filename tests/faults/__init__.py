"""What the daemon must survive: `deploy/FAULTS.md` says what it does fault by fault, `make faults` shows it.

A test anywhere under tests/ carries ``@pytest.mark.fault(2, 3)``: the numbers of the faults that it shows. What it has
counted it tells with pytest's ``record_property``: rounds, instances, lost, doubled.
"""
