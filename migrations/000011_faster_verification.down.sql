alter table faces alter column code set storage extended;

drop function verify_face(
  uuid, text, integer[], vector[], text, double precision, double precision, boolean, boolean, numeric, integer, integer,
  text, bytea, bytea, interval
);
