/**
 * @file The 22 queries of TPC-H with the validation parameters of its specification, in DuckDB's SQL.
 * Tables go by their names; `overInputs` makes them placeholders for `partialSql`. Each is ordered in
 * full, so that answers can be compared row by row.
 */

const tableNames = [
  "region",
  "nation",
  "supplier",
  "customer",
  "partsupp",
  "part",
  "orders",
  "lineitem",
];

/** A query over `{0}`, `{1}`, ..., and the tables that stand for them. */
export function overInputs(query: string): {
  readonly query: string;
  readonly tables: readonly string[];
} {
  const tables = tableNames.filter((name) => new RegExp(`\\b${name}\\b`).test(query));
  const placed = tables.reduce(
    (text, name, i) => text.replace(new RegExp(`\\b${name}\\b`, "g"), `{${i}}`),
    query,
  );
  return { query: placed, tables };
}

const revenue = "sum(l_extendedprice * (1 - l_discount))";

/** The queries, the first at index 0. */
export const tpchQueries: readonly string[] = [
  `SELECT l_returnflag, l_linestatus, sum(l_quantity) AS qty, sum(l_extendedprice) AS base, ${revenue} AS disc,
    sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)) AS charge, count(*) AS n
   FROM lineitem WHERE l_shipdate <= DATE '1998-09-02' GROUP BY ALL ORDER BY ALL`,
  `SELECT s_acctbal, s_name, n_name, p_partkey, p_mfgr, s_address, s_phone FROM part, supplier, partsupp, nation, region
   WHERE p_partkey = ps_partkey AND s_suppkey = ps_suppkey AND p_size = 15 AND p_type LIKE '%BRASS'
    AND s_nationkey = n_nationkey AND n_regionkey = r_regionkey AND r_name = 'EUROPE' AND ps_supplycost = (
     SELECT min(ps_supplycost) FROM partsupp, supplier, nation, region WHERE p_partkey = ps_partkey
      AND s_suppkey = ps_suppkey AND s_nationkey = n_nationkey AND n_regionkey = r_regionkey AND r_name = 'EUROPE')
   ORDER BY s_acctbal DESC, n_name, s_name, p_partkey LIMIT 100`,
  `SELECT l_orderkey, ${revenue} AS revenue, o_orderdate, o_shippriority FROM customer, orders, lineitem
   WHERE c_mktsegment = 'BUILDING' AND c_custkey = o_custkey AND l_orderkey = o_orderkey
    AND o_orderdate < DATE '1995-03-15' AND l_shipdate > DATE '1995-03-15'
   GROUP BY l_orderkey, o_orderdate, o_shippriority ORDER BY revenue DESC, o_orderdate, l_orderkey LIMIT 10`,
  `SELECT o_orderpriority, count(*) AS n FROM orders WHERE o_orderdate >= DATE '1993-07-01'
    AND o_orderdate < DATE '1993-10-01' AND EXISTS (
     SELECT 1 FROM lineitem WHERE l_orderkey = o_orderkey AND l_commitdate < l_receiptdate)
   GROUP BY ALL ORDER BY ALL`,
  `SELECT n_name, ${revenue} AS revenue FROM customer, orders, lineitem, supplier, nation, region
   WHERE c_custkey = o_custkey AND l_orderkey = o_orderkey AND l_suppkey = s_suppkey AND c_nationkey = s_nationkey
    AND s_nationkey = n_nationkey AND n_regionkey = r_regionkey AND r_name = 'ASIA'
    AND o_orderdate >= DATE '1994-01-01' AND o_orderdate < DATE '1995-01-01'
   GROUP BY n_name ORDER BY revenue DESC, n_name`,
  `SELECT sum(l_extendedprice * l_discount) AS revenue FROM lineitem WHERE l_shipdate >= DATE '1994-01-01'
    AND l_shipdate < DATE '1995-01-01' AND l_discount BETWEEN 0.05 AND 0.07 AND l_quantity < 24`,
  `SELECT n1.n_name AS supp, n2.n_name AS cust, year(l_shipdate) AS y, ${revenue} AS revenue
   FROM supplier, lineitem, orders, customer, nation n1, nation n2
   WHERE s_suppkey = l_suppkey AND o_orderkey = l_orderkey AND c_custkey = o_custkey
    AND s_nationkey = n1.n_nationkey AND c_nationkey = n2.n_nationkey
    AND (n1.n_name, n2.n_name) IN (('FRANCE', 'GERMANY'), ('GERMANY', 'FRANCE'))
    AND l_shipdate BETWEEN DATE '1995-01-01' AND DATE '1996-12-31' GROUP BY ALL ORDER BY ALL`,
  `SELECT y, sum(if(country = 'BRAZIL', volume, 0)) / sum(volume) AS share FROM (
    SELECT year(o_orderdate) AS y, l_extendedprice * (1 - l_discount) AS volume, n2.n_name AS country
    FROM part, supplier, lineitem, orders, customer, nation n1, nation n2, region
    WHERE p_partkey = l_partkey AND s_suppkey = l_suppkey AND l_orderkey = o_orderkey AND o_custkey = c_custkey
     AND c_nationkey = n1.n_nationkey AND n1.n_regionkey = r_regionkey AND r_name = 'AMERICA'
     AND s_nationkey = n2.n_nationkey AND o_orderdate BETWEEN DATE '1995-01-01' AND DATE '1996-12-31'
     AND p_type = 'ECONOMY ANODIZED STEEL') GROUP BY y ORDER BY y`,
  `SELECT n_name, year(o_orderdate) AS y, sum(l_extendedprice * (1 - l_discount) - ps_supplycost * l_quantity) AS profit
   FROM part, supplier, lineitem, partsupp, orders, nation
   WHERE s_suppkey = l_suppkey AND ps_suppkey = l_suppkey AND ps_partkey = l_partkey AND p_partkey = l_partkey
    AND o_orderkey = l_orderkey AND s_nationkey = n_nationkey AND p_name LIKE '%green%'
   GROUP BY ALL ORDER BY n_name, y DESC`,
  `SELECT c_custkey, c_name, ${revenue} AS revenue, c_acctbal, n_name, c_address, c_phone
   FROM customer, orders, lineitem, nation
   WHERE c_custkey = o_custkey AND l_orderkey = o_orderkey AND o_orderdate >= DATE '1993-10-01'
    AND o_orderdate < DATE '1994-01-01' AND l_returnflag = 'R' AND c_nationkey = n_nationkey
   GROUP BY ALL ORDER BY revenue DESC, c_custkey LIMIT 20`,
  `WITH german AS (SELECT ps_partkey, ps_supplycost * ps_availqty AS value FROM partsupp, supplier, nation
    WHERE ps_suppkey = s_suppkey AND s_nationkey = n_nationkey AND n_name = 'GERMANY')
   SELECT ps_partkey, sum(value) AS total FROM german GROUP BY ps_partkey
   HAVING sum(value) > (SELECT sum(value) * 0.0001 FROM german) ORDER BY total DESC, ps_partkey`,
  `SELECT l_shipmode, count_if(o_orderpriority IN ('1-URGENT', '2-HIGH')) AS high,
    count_if(o_orderpriority NOT IN ('1-URGENT', '2-HIGH')) AS low FROM orders, lineitem
   WHERE o_orderkey = l_orderkey AND l_shipmode IN ('MAIL', 'SHIP') AND l_commitdate < l_receiptdate
    AND l_shipdate < l_commitdate AND l_receiptdate >= DATE '1994-01-01' AND l_receiptdate < DATE '1995-01-01'
   GROUP BY ALL ORDER BY ALL`,
  `SELECT c_count, count(*) AS n FROM (SELECT c_custkey, count(o_orderkey) AS c_count FROM customer
    LEFT JOIN orders ON c_custkey = o_custkey AND o_comment NOT LIKE '%special%requests%' GROUP BY c_custkey)
   GROUP BY c_count ORDER BY n DESC, c_count DESC`,
  `SELECT 100.0 * sum(if(p_type LIKE 'PROMO%', l_extendedprice * (1 - l_discount), 0)) / ${revenue} AS promo
   FROM lineitem, part WHERE l_partkey = p_partkey AND l_shipdate >= DATE '1995-09-01' AND l_shipdate < DATE '1995-10-01'`,
  `WITH earned AS (SELECT l_suppkey AS who, ${revenue} AS total FROM lineitem
    WHERE l_shipdate >= DATE '1996-01-01' AND l_shipdate < DATE '1996-04-01' GROUP BY l_suppkey)
   SELECT s_suppkey, s_name, s_address, s_phone, total FROM supplier, earned
   WHERE s_suppkey = who AND total = (SELECT max(total) FROM earned) ORDER BY s_suppkey`,
  `SELECT p_brand, p_type, p_size, count(DISTINCT ps_suppkey) AS n FROM partsupp, part
   WHERE p_partkey = ps_partkey AND p_brand <> 'Brand#45' AND p_type NOT LIKE 'MEDIUM POLISHED%'
    AND p_size IN (49, 14, 23, 45, 19, 3, 36, 9) AND ps_suppkey NOT IN (
     SELECT s_suppkey FROM supplier WHERE s_comment LIKE '%Customer%Complaints%')
   GROUP BY ALL ORDER BY n DESC, p_brand, p_type, p_size`,
  `SELECT sum(l_extendedprice) / 7.0 AS yearly FROM lineitem, part WHERE p_partkey = l_partkey
    AND p_brand = 'Brand#23' AND p_container = 'MED BOX' AND l_quantity < (
     SELECT 0.2 * avg(l_quantity) FROM lineitem WHERE l_partkey = p_partkey)`,
  `SELECT c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice, sum(l_quantity) AS qty
   FROM customer, orders, lineitem WHERE o_orderkey IN (
     SELECT l_orderkey FROM lineitem GROUP BY l_orderkey HAVING sum(l_quantity) > 300)
    AND c_custkey = o_custkey AND o_orderkey = l_orderkey
   GROUP BY ALL ORDER BY o_totalprice DESC, o_orderdate, o_orderkey LIMIT 100`,
  `SELECT ${revenue} AS revenue FROM lineitem, part WHERE p_partkey = l_partkey
    AND l_shipmode IN ('AIR', 'REG AIR') AND l_shipinstruct = 'DELIVER IN PERSON' AND (
     (p_brand = 'Brand#12' AND p_container IN ('SM CASE', 'SM BOX', 'SM PACK', 'SM PKG') AND l_quantity BETWEEN 1 AND 11 AND p_size BETWEEN 1 AND 5)
     OR (p_brand = 'Brand#23' AND p_container IN ('MED BAG', 'MED BOX', 'MED PKG', 'MED PACK') AND l_quantity BETWEEN 10 AND 20 AND p_size BETWEEN 1 AND 10)
     OR (p_brand = 'Brand#34' AND p_container IN ('LG CASE', 'LG BOX', 'LG PACK', 'LG PKG') AND l_quantity BETWEEN 20 AND 30 AND p_size BETWEEN 1 AND 15))`,
  `SELECT s_name, s_address FROM supplier, nation WHERE s_suppkey IN (
    SELECT ps_suppkey FROM partsupp WHERE ps_partkey IN (SELECT p_partkey FROM part WHERE p_name LIKE 'forest%')
     AND ps_availqty > (SELECT 0.5 * sum(l_quantity) FROM lineitem WHERE l_partkey = ps_partkey
      AND l_suppkey = ps_suppkey AND l_shipdate >= DATE '1994-01-01' AND l_shipdate < DATE '1995-01-01'))
    AND s_nationkey = n_nationkey AND n_name = 'CANADA' ORDER BY s_name`,
  `SELECT s_name, count(*) AS n FROM supplier, lineitem l1, orders, nation
   WHERE s_suppkey = l1.l_suppkey AND o_orderkey = l1.l_orderkey AND o_orderstatus = 'F'
    AND l1.l_receiptdate > l1.l_commitdate AND s_nationkey = n_nationkey AND n_name = 'SAUDI ARABIA'
    AND EXISTS (SELECT 1 FROM lineitem l2 WHERE l2.l_orderkey = l1.l_orderkey AND l2.l_suppkey <> l1.l_suppkey)
    AND NOT EXISTS (SELECT 1 FROM lineitem l3 WHERE l3.l_orderkey = l1.l_orderkey
     AND l3.l_suppkey <> l1.l_suppkey AND l3.l_receiptdate > l3.l_commitdate)
   GROUP BY s_name ORDER BY n DESC, s_name LIMIT 100`,
  `SELECT code, count(*) AS n, sum(c_acctbal) AS total FROM (
    SELECT c_phone[1:2] AS code, c_acctbal FROM customer WHERE c_phone[1:2] IN ('13', '31', '23', '29', '30', '18', '17')
     AND c_acctbal > (SELECT avg(c_acctbal) FROM customer WHERE c_acctbal > 0
      AND c_phone[1:2] IN ('13', '31', '23', '29', '30', '18', '17'))
     AND NOT EXISTS (SELECT 1 FROM orders WHERE o_custkey = c_custkey)) GROUP BY code ORDER BY code`,
];
