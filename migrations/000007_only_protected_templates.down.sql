alter table faces alter column key_version drop not null;
alter table faces alter column sealed drop not null;
alter table faces drop constraint faces_template_check;
alter table faces add constraint faces_template_check check (
  key_version is not null and sealed is not null
  and octet_length(sealed) = 2079 and get_byte(sealed, 0) = 1
  and (get_byte(sealed, 1) << 8 | get_byte(sealed, 2)) = key_version
) not valid;
