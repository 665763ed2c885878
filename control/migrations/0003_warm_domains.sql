-- A domain that has sent in volume before, elsewhere, needs no warm-up ceiling: since when that is known here.

ALTER TABLE domains ADD COLUMN warm_at BIGINT;
