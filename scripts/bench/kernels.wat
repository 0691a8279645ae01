;; The least work that a search could be: loops over bytes in memory, four numbers or sixteen bytes at a time.
(module
  (memory (export "memory") 1)

  ;; Hamming distance of `count` codes of 64 bytes at `codes` to the one at `probe`: an i32 for each, at `out`.
  (func (export "scan") (param $codes i32) (param $count i32) (param $probe i32) (param $out i32)
    (local $end i32) (local $a v128) (local $b v128) (local $c v128) (local $d v128) (local $sum v128)
    (local.set $a (v128.load (local.get $probe)))
    (local.set $b (v128.load offset=16 (local.get $probe)))
    (local.set $c (v128.load offset=32 (local.get $probe)))
    (local.set $d (v128.load offset=48 (local.get $probe)))
    (local.set $end (i32.add (local.get $codes) (i32.shl (local.get $count) (i32.const 6))))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $codes) (local.get $end)))
        ;; a byte of the sum is at most 4 * 8
        (local.set $sum
          (i32x4.extadd_pairwise_i16x8_u (i16x8.extadd_pairwise_i8x16_u
            (i8x16.add
              (i8x16.add
                (i8x16.popcnt (v128.xor (local.get $a) (v128.load (local.get $codes))))
                (i8x16.popcnt (v128.xor (local.get $b) (v128.load offset=16 (local.get $codes)))))
              (i8x16.add
                (i8x16.popcnt (v128.xor (local.get $c) (v128.load offset=32 (local.get $codes))))
                (i8x16.popcnt (v128.xor (local.get $d) (v128.load offset=48 (local.get $codes)))))))))
        (i32.store (local.get $out)
          (i32.add
            (i32.add (i32x4.extract_lane 0 (local.get $sum)) (i32x4.extract_lane 1 (local.get $sum)))
            (i32.add (i32x4.extract_lane 2 (local.get $sum)) (i32x4.extract_lane 3 (local.get $sum)))))
        (local.set $codes (i32.add (local.get $codes) (i32.const 64)))
        (local.set $out (i32.add (local.get $out) (i32.const 4)))
        (br $next))))

  ;; Dot products of `count` rows of `bytes` bytes (float32, a multiple of 16) at `rows` with four probes, one behind the
  ;; other at `probes`: four float32 for each row, at `out`.
  (func (export "dots") (param $rows i32) (param $count i32) (param $bytes i32) (param $probes i32) (param $out i32)
    (local $end i32) (local $at i32) (local $p1 i32) (local $p2 i32) (local $p3 i32) (local $row v128)
    (local $d0 v128) (local $d1 v128) (local $d2 v128) (local $d3 v128)
    (local.set $p1 (i32.add (local.get $probes) (local.get $bytes)))
    (local.set $p2 (i32.add (local.get $p1) (local.get $bytes)))
    (local.set $p3 (i32.add (local.get $p2) (local.get $bytes)))
    (local.set $end (i32.add (local.get $rows) (i32.mul (local.get $count) (local.get $bytes))))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $rows) (local.get $end)))
        (local.set $d0 (v128.const f32x4 0 0 0 0))
        (local.set $d1 (v128.const f32x4 0 0 0 0))
        (local.set $d2 (v128.const f32x4 0 0 0 0))
        (local.set $d3 (v128.const f32x4 0 0 0 0))
        (local.set $at (i32.const 0))
        (loop $more
          (local.set $row (v128.load (i32.add (local.get $rows) (local.get $at))))
          (local.set $d0 (f32x4.add (local.get $d0) (f32x4.mul (local.get $row) (v128.load (i32.add (local.get $probes) (local.get $at))))))
          (local.set $d1 (f32x4.add (local.get $d1) (f32x4.mul (local.get $row) (v128.load (i32.add (local.get $p1) (local.get $at))))))
          (local.set $d2 (f32x4.add (local.get $d2) (f32x4.mul (local.get $row) (v128.load (i32.add (local.get $p2) (local.get $at))))))
          (local.set $d3 (f32x4.add (local.get $d3) (f32x4.mul (local.get $row) (v128.load (i32.add (local.get $p3) (local.get $at))))))
          (local.set $at (i32.add (local.get $at) (i32.const 16)))
          (br_if $more (i32.lt_u (local.get $at) (local.get $bytes))))
        (f32.store (local.get $out) (call $total (local.get $d0)))
        (f32.store offset=4 (local.get $out) (call $total (local.get $d1)))
        (f32.store offset=8 (local.get $out) (call $total (local.get $d2)))
        (f32.store offset=12 (local.get $out) (call $total (local.get $d3)))
        (local.set $rows (i32.add (local.get $rows) (local.get $bytes)))
        (local.set $out (i32.add (local.get $out) (i32.const 16)))
        (br $next))))

  (func $total (param $of v128) (result f32)
    (f32.add
      (f32.add (f32x4.extract_lane 0 (local.get $of)) (f32x4.extract_lane 1 (local.get $of)))
      (f32.add (f32x4.extract_lane 2 (local.get $of)) (f32x4.extract_lane 3 (local.get $of))))))
